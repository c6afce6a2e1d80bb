"""examples/first-steps.ipynb: runs from top to bottom in an empty folder, and shows tables and pictures."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.long

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first-steps.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[Path, nbformat.NotebookNode]:
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    return folder, notebook


def test_notebook_compares_two_runs(executed):
    folder, _ = executed
    for name, k in (("squares", 1), ("fitting", 2)):
        record = json.loads((folder / "runs" / name / "run.json").read_text())
        assert (record["status"], record["axes"]["k"]) == ("finished", k)


def test_notebook_shows_tables_and_pictures(executed):
    _, notebook = executed
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    assert sum("<table>" in page for page in pages) == 6  # anchors, two coverages, two runs, their comparison
    assert any("data:image/png" in page for page in pages)
    assert sum("image/png" in data for data in shown) == 2


def test_progress_needs_no_terminal(executed):
    _, notebook = executed
    texts = [str(cell.get("outputs", "")) for cell in notebook.cells]
    assert sum("epoch 2/2" in text for text in texts) == 2


def test_notebook_is_kept_without_outputs():
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell for cell in kept.cells if cell.get("outputs")] == []
