"""Weights & Biases' server, and the local service of its client: whether they answer, and their end.

Asks no question and imports no torch, so that a sweep can say what its jobs will find.
"""

import base64
import contextlib
import json
import netrc
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

PROBE_SECONDS = 4
"""How long the server may take to answer a first small question."""

QUESTION = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()

UPLOAD = "python -m anchorlab.training.loggers.upload"
"""With folders of runs behind it: sends what the server lacks of them (upload.py)."""

Mode = Literal["online", "offline", "disabled"]


def written_to(folder: Path) -> Path:
    """Where W&B keeps its own files of the run in `folder`."""
    return Path(os.environ.get("WANDB_DIR") or folder)


def segments(folder: Path, run_id: str) -> list[Path]:
    """The folders that W&B wrote for a run: one each time that it was begun or resumed."""
    return [*written_to(folder).glob(f"wandb/*run-*-{run_id}")]


def reachable(asked: Literal["auto", "online", "offline"]) -> tuple[Mode, str]:
    """The mode that `logger.mode` means here and now, and why it is not online.

    Raises:
        ValueError: online is asked for, without credentials or a proper answer of the server.
    """
    mode, why = settled_mode(asked)
    if mode == "online" and (why := server_fault()):
        if asked == "online":
            raise ValueError(f"logger.mode=online: {why}; use logger.mode=offline")
        mode = "offline"
    return mode, why


def settled_mode(asked: Literal["auto", "online", "offline"]) -> tuple[Mode, str]:
    """The mode that `logger.mode` means here, and why it is not online. The server is not asked.

    Raises:
        ValueError: online is asked for, and there are no credentials.
    """
    if asked == "offline":
        return "offline", "logger.mode=offline"
    environment = os.environ.get("WANDB_MODE", "")
    if asked == "auto" and environment in ("offline", "dryrun", "disabled"):
        return "disabled" if environment == "disabled" else "offline", f"WANDB_MODE={environment}"
    if _key() or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online", ""
    if asked == "online":
        raise ValueError("logger.mode=online finds no credentials: run `wandb login` or use logger.mode=offline")
    return "offline", "no credentials found"


def server_fault() -> str:
    """Why the W&B server cannot be used now, or nothing. W&B itself would try for a minute and more."""
    import wandb

    address = wandb.setup().settings.base_url.rstrip("/")
    host, key = urlsplit(address).netloc, _key()
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    # A thread, as no timeout of Python's bounds looking up a name, or an answer that comes byte by byte.
    threading.Thread(target=lambda: answers.put(_fault_in_answer(address, key)), daemon=True).start()
    try:
        fault = answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        fault = f"does not answer within {PROBE_SECONDS} s"
    return f"{host} {fault}" if fault else ""


def _fault_in_answer(address: str, key: str | None) -> str:
    request = urllib.request.Request(f"{address}/graphql", QUESTION, {"Content-Type": "application/json"})
    if key:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'api:{key}'.encode()).decode()}")
    try:
        # Longer than anybody waits: it only ends the thread, and says nothing.
        with urllib.request.urlopen(request, timeout=2 * PROBE_SECONDS) as answer:
            content = json.loads(answer.read(100_000))
    except urllib.error.HTTPError as error:
        return f"answers {error.code} {error.reason}".rstrip()
    except (OSError, HTTPException) as error:
        return f"does not answer ({first_line(getattr(error, 'reason', error))})"
    except ValueError:
        return "does not answer like a W&B server"
    data = content.get("data") if isinstance(content, Mapping) else None
    if not isinstance(data, Mapping):
        return "does not answer like a W&B server"
    return "" if data.get("viewer") or not key else "does not know the API key"


def connect() -> None:
    """Start W&B's service, or use the parent's: its token is inherited, and may be that of one that has ended."""
    # W&B's reports on itself: they end up on the screen where the server has no place for them, and hold the process
    # where it does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    quiet = wandb.Settings(silent=True)
    try:
        wandb.setup(quiet)
    except Exception:  # W&B's own error for this is private
        if os.environ.pop("WANDB_SERVICE", None) is None:
            raise
        wandb.setup(quiet)


def end_service() -> None:
    """End the service that this process started, with whatever it still tries to upload: it would try for hours, and
    the interpreter would wait for it at its exit. What it was given is on the disk."""
    import wandb

    process = getattr(getattr(wandb.setup().ensure_service(), "_proc", None), "_process", None)
    if process is not None:
        process.kill()
    disconnect()


def disconnect() -> None:
    """End W&B's client in this process, and the service that it started.

    W&B calls sys.exit where its service ended with an error; a training has an exit code of its own.
    """
    import wandb

    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def _key() -> str | None:
    """The key that W&B would find without asking: in the environment, its settings or the netrc file."""
    import wandb

    settings = wandb.setup().settings
    if key := os.environ.get("WANDB_API_KEY") or settings.api_key:
        return key
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return None
    found = known.hosts.get(urlsplit(settings.base_url).hostname or "")
    return found[2] if found else None


def first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
