"""The floors of docs/architecture.md: no import goes upward or in a circle, nor under TYPE_CHECKING."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FLOORS = (
    {"printable"},
    {"errors", "version", "exports", "installation", "notebook", "signatures", "cores", "deferred"},
    {"console"},
    {"config"},
    {"rpn", "metrics", "runs", "data"},
    {"analysis"},
    {"plots"},
    {"build", "comparing"},
    {"training"},
    {"trained", "sweeps"},
    {"cli"},
    {"commands"},
    {"interface"},
)
FLOOR = {name: height for height, floor in enumerate(FLOORS) for name in floor}


def imports() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports, anywhere in its text."""
    files = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in SRC.glob("anchorlab/**/*.py")}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module]
        asked = {m for n in nodes for a in n.names for m in (f"{n.module}.{a.name}", str(n.module))}
        found[name] = {module for module in asked if module in files} - {name}
    return found


def test_no_import_goes_upward():
    wrong = []
    for name, others in imports().items():
        room = name.split(".")[1]
        if room.startswith("__"):  # the package itself: its public names, and the program
            continue
        for other in others:
            target = other.split(".")[1]
            if target != room and FLOOR[target] >= FLOOR[room]:
                wrong.append(f"{name} -> {other}")
    assert wrong == []


@pytest.mark.parametrize(
    ("room", "others"),
    [
        ("rpn", {"errors", "exports", "notebook", "signatures"}),
        ("metrics", {"exports"}),
        ("data", {"console", "cores", "errors", "exports", "signatures"}),
        ("runs", {"config", "cores", "errors", "installation", "printable"}),  # config: for the hash of a run's config
    ],
)
def test_packages_that_stand_alone(room, others):
    imported = {t for name, found in imports().items() if name.split(".")[1] == room for t in found}
    assert {module.split(".")[1] for module in imported} - {room} <= others


def test_no_import_goes_in_a_circle():
    TopologicalSorter(imports()).prepare()
