"""A stand-in for W&B's server on the loopback: keeps what runs send, and fails as real servers do.

Answers the questions of wandb's client (GraphQL), and takes history, console and files. No page, no accounts: any key
is somebody's. Tables and checkpoints come as artifacts, of which it keeps the announcement and asks for no content.
"""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import wandb

HISTORY = "wandb-history.jsonl"


@dataclass
class KeptRun:
    """What the server holds of one run."""

    config: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    """Name, group, job type, tags, ... as the client gave them."""
    lines: dict[str, list[str]] = field(default_factory=dict)
    """Of files that are streamed; the history is one."""
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None
    preempting: bool = False

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get(HISTORY, ())]

    @property
    def summary(self) -> dict[str, Any]:
        streamed = self.lines.get("wandb-summary.json")
        return json.loads(streamed[-1] if streamed else self.files.get("wandb-summary.json", b"{}"))


class WandbServer:
    """Runs in threads of this process.

    Attributes:
        requests: method, path and GraphQL operation of each request, in order.
        runs: by id.
        fault: called before each answer with the request's handler; True: it has answered, or nobody will.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.runs: dict[str, KeptRun] = {}
        self.fault: Callable[[Request], bool] = lambda request: False
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._listening: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, at the same port as before."""
        handler = type("Handler", (Request,), {"server_": self})
        self._listening = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._listening.daemon_threads = True
        self.port = self._listening.server_port
        self.stopped.clear()
        threading.Thread(target=self._listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._listening is not None:
            self.stopped.set()
            self._listening.shutdown()
            self._listening.server_close()
            self._listening = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process of its own log here."""
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": "a" * 40}

    @property
    def run(self) -> KeptRun:
        """The only one."""
        (run,) = self.runs.values()
        return run

    def graphql(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            answer = getattr(self, f"_{name}", None)
            return {} if answer is None else answer(variables)

    def stream(self, run_id: str, news: dict[str, Any]) -> None:
        with self._lock:
            run = self.runs[run_id]
            for name, chunk in news.get("files", {}).items():
                lines = run.lines.setdefault(name, [])
                if name == "wandb-summary.json":
                    lines.clear()
                lines[chunk["offset"] :] = chunk["content"]
            if news.get("complete"):
                run.exit_code = news["exitcode"]
            run.preempting = bool(news.get("preempting", run.preempting))

    def keep_file(self, run_id: str, name: str, content: bytes) -> None:
        with self._lock:
            self.runs[run_id].files[name] = content

    def _Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        me = {"id": "me", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": me}

    def _ServerFeaturesQuery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _ArtifactType(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _OrganizationCoreWeaveOrganizationID(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        bucket = None if run is None else self._bucket(variables["name"]) | self._progress(run)
        entity = {"id": "me", "name": "me"}
        return {"model": {"id": "project", "name": variables["project"], "entity": entity, "bucket": bucket}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        inserted = variables["name"] not in self.runs
        run = self.runs.setdefault(variables["name"], KeptRun())
        if variables.get("config") is not None:
            run.config = {key: entry["value"] for key, entry in json.loads(variables["config"]).items()}
        run.about |= {key: value for key, value in variables.items() if value is not None and key != "config"}
        return {"upsertBucket": {"bucket": self._bucket(variables["name"]), "inserted": inserted}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        place = f"{self.address}/files/me/{variables['project']}/{variables['run']}"
        files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = variables["input"]
        self.runs[artifact["runName"]].artifacts.append(artifact)
        kept = {"id": "artifact", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": kept}}

    def _bucket(self, run_id: str) -> dict[str, Any]:
        run = self.runs[run_id]
        project = {"id": "project", "name": run.about["project"], "entity": {"id": "me", "name": "me"}}
        return {
            "id": run_id,
            "name": run_id,
            "displayName": run.about.get("displayName", run_id),
            "description": "",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.lines.get(HISTORY, ())),
        }

    def _progress(self, run: KeptRun) -> dict[str, Any]:
        events = run.lines.get("wandb-events.jsonl", [])
        return {
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": len(run.lines.get("output.log", ())),
            "eventsLineCount": len(events),
            "historyTail": json.dumps(run.lines.get(HISTORY, [])[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            "tags": run.about.get("tags", []),
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }


class Request(BaseHTTPRequestHandler):
    """One request; `server_` is the WandbServer."""

    server_: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        content = json.loads(body) if self.headers.get("Content-Type") == "application/json" else {}
        name = content.get("operationName") or content.get("query", "").strip().partition("(")[0].split(" ")[1:2]
        name = name if isinstance(name, str) else "".join(name)
        with self.server_._lock:
            self.server_.requests.append(f"{self.command} {self.path} {name}".strip())
        if self.server_.fault(self):
            return
        if self.path == "/graphql":
            known = bool(self.headers.get("Authorization"))
            data = self.server_.graphql(name, content.get("variables") or {}) if known else {"viewer": None}
            self.answer(200, json.dumps({"data": data}).encode())
        elif self.path.endswith("/file_stream"):
            self.server_.stream(self.path.split("/")[-2], content)
            self.answer(200, b'{"exitcode": null, "limits": {}}')
        else:
            self.answer(404, b"{}")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server_._lock:
            self.server_.requests.append(f"PUT {self.path}")
        if self.server_.fault(self):
            return
        _, _, _, _, run_id, name = self.path.split("/", 5)
        self.server_.keep_file(run_id, name, body)
        self.answer(200, b"{}")

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


def answering(code: int, body: bytes = b"{}") -> Callable[[Request], bool]:
    """Every question gets this answer."""

    def fault(request: Request) -> bool:
        request.answer(code, body)
        return True

    return fault


def hanging(request: Request) -> bool:
    """Takes the question and never answers."""
    request.server_.stopped.wait()
    return True


def dripping(request: Request) -> bool:
    """Answers so slowly that no read waits long, and the whole never comes."""
    request.send_response(200)
    request.end_headers()
    while not request.server_.stopped.wait(1):
        try:
            request.wfile.write(b" ")
        except OSError:
            break
    return True


def named_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that the environment of this process names, with credentials for it: the body of a fixture."""
    server = WandbServer()
    wandb.teardown()  # W&B remembers an address for the process
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()
