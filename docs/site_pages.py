"""Hook of mkdocs: the files of the repository as pages, in the folders that they lie in, so that links stay as written.

Beside docs/ come README.md, CHANGELOG.md, the READMEs of experiments/ and benchmarks/, a page for each source file that
a page links, and a page of the API for each package with public names, from its docstrings. mkdocs.yml names the hook
and orders the pages.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from anchorlab.exports import homes, public_names

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
SEARCH_FROM_DISK, STYLE = "iframe-worker.js", "site.css"  # files of docs/ that each page of the site loads
CODE = {".py": "python", ".yaml": "yaml", ".js": "javascript", ".pyi": "python"}


def on_config(config: Any) -> Any:
    """Fill in the folders of the navigation, which mkdocs does not read itself, and name our stand-in for a Worker, for
    which the theme's plugin `offline` would ask another host."""
    config["extra"]["polyfills"] = [SEARCH_FROM_DISK]
    config["extra_css"] = [STYLE]
    config["nav"] = [_with_folders(entry) for entry in config["nav"]]
    return config


def on_files(files: Files, config: Any) -> Files:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *_pages("docs"), *_pages("experiments")]
    pages += _pages("benchmarks")
    linked = {(page.parent / link).resolve() for page in pages for link in LINK.findall(page.read_text("utf-8"))}
    found = [file for file in sorted({*pages, *linked}) if file.is_file() and file.is_relative_to(ROOT)]
    made = [_as_file(file, config) for file in found]
    made += [File.generated(config, f"api/{package}.md", content=text) for package, text in _api()]
    made += [File.generated(config, name, abs_src_path=str(ROOT / "docs" / name)) for name in (SEARCH_FROM_DISK, STYLE)]
    theme = [file for file in files if not file.src_uri.endswith(".md") and file.src_dir != config["docs_dir"]]
    return Files([*theme, *made])


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to source files lead to their pages."""
    return LINK.sub(lambda link: f"{link[1]}.md" if Path(link[1]).suffix in CODE else link[1], markdown)


def _with_folders(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    ((title, inner),) = entry.items()
    listed = [inner] if isinstance(inner, str) else inner
    return {title: [page for name in listed for page in (_folder(name) if str(name).endswith("/") else [name])]}


def _folder(name: str) -> list[Any]:
    if name == "api/":
        return [{"API": [{package: f"api/{package}.md"} for package, _ in _api()]}]
    return [page.relative_to(ROOT).as_posix() for page in _pages(name.rstrip("/"))]


def _pages(folder: str) -> list[Path]:
    return sorted((ROOT / folder).glob("**/*.md"))


def _as_file(path: Path, config: Any) -> File:
    name = path.relative_to(ROOT).as_posix()
    if path.suffix not in CODE:
        return File.generated(config, name, abs_src_path=str(path))
    text = f"# {name}\n\n```{CODE[path.suffix]}\n{path.read_text('utf-8')}```\n"
    return File.generated(config, f"{name}.md", content=text)


def _api() -> Iterator[tuple[str, str]]:
    """Package -> the page that lists its public names; what a package inside exports too stands on that one's page."""
    listed = set(public_names())
    for package in ("anchorlab", *sorted({name.rpartition(".")[0] for name in public_names().values()})):
        names = [f"{home}.{name}" for name, home in homes(package).items()]
        own = [name for name in names if package != "anchorlab" or name not in listed]
        yield package, f"# {package}\n\n" + "\n\n".join(f"::: {name}" for name in own) + "\n"
