"""Paths and texts arrive as they were typed, whatever Hydra's grammar makes of their letters."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from anchorlab.cli.quoting import quoted

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "conf"
PLACES = [
    "josé",
    "数据集",
    "archive (1)",
    "a&b",
    "it's",
    'say "x"',
    "a,b",
    "50%",
    "a#b",
    "[x]",
    "{x}",
    "C=1",
    "{split}2017",
    "C:\\Users\\me\\data",
    "C:\\Users\\me\\",
    "2007",
    "true",
    "a:b;c@d!e`f`",
    " blanks ",
]


def arrives(argument: str) -> object:
    override = OverridesParser.create().parse_override(quoted(argument, CONFIGS))
    assert not override.is_sweep_override()
    return override.value()


@pytest.mark.parametrize("key", ["data.root", "+data.root", "data.reader.images", "source", "hydra.run.dir"])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_arrives_as_typed(key: str, place: str) -> None:
    if place == "[x]" and key == "source":
        assert arrives(f"{key}={place}") == ["x"]  # which takes a list too
    elif place in ("2007", "true") and not key.startswith(("data", "+data")):
        assert str(arrives(f"{key}={place}")).lower() == place
    else:
        assert arrives(f"{key}={place}") == place


@given(st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="$~"), min_size=1))
def test_any_text_arrives(text: str) -> None:
    given_in_quotes = quoted(f"data.root={text}", CONFIGS) == f"data.root={text}"
    assert given_in_quotes or arrives(f"data.root={text}") == text


def test_home_and_variables_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/josé")
    assert arrives("data.root=~/coco") == arrives("data.root=$HOME/coco") == "/home/josé/coco"


def test_a_sweep_over_places_has_quotes_of_its_own() -> None:
    override = OverridesParser.create().parse_override(quoted("data.root='a b','c,d'", CONFIGS))
    assert override.is_sweep_override()
    assert list(override.sweep_string_iterator()) == ["'a b'", "'c,d'"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("data.categories=[traffic light,目标]", ["traffic light", "目标"]),
        ("run=[outputs/a b,outputs/c]", ["outputs/a b", "outputs/c"]),
        ("run=['a','b']", ["a", "b"]),
        ("start=null", None),
        ("anchor.ratios=[0.5,1]", [0.5, 1]),
        ("trainer.epochs=3", 3),
        ("callbacks.pictures.images=0", 0),
        ("backbone.weights=true", True),
        ("runs.filter=seed=1", "seed=1"),
    ],
)
def test_other_values_stay_what_they_are(argument: str, value: object) -> None:
    assert arrives(argument) == value


@pytest.mark.parametrize(
    "argument", ["-m", "--config-dir=a b", "data=voc", "anchor.k=3,6", "data.root=choice('a','b')"]
)
def test_what_is_no_place_is_not_touched(argument: str) -> None:
    assert quoted(argument, CONFIGS) == argument


@pytest.mark.parametrize(
    ("arguments", "reader", "root"),
    [
        (["data.root=my data (1), it's"], "anchorlab.data.auto.AutoReader", "my data (1), it's"),
        (["data.root=x", "data=coco"], "anchorlab.data.CocoReader", "x"),
        (["data.root=x", "data.reader.num_train=3"], "anchorlab.data.SyntheticReader", "x"),
        (["data.root=x", "data=synthetic"], "anchorlab.data.SyntheticReader", "x"),
        (["data.root=x", "experiment=real-images"], "anchorlab.data.VocReader", "x"),
        ([], "anchorlab.data.SyntheticReader", "~/.cache/anchorlab/synthetic"),
    ],
)
def test_a_given_folder_is_read_as_found(arguments: list[str], reader: str, root: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *arguments, "--cfg", "job", "-p", "data"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert f"_target_: {reader}" in lines
    assert (
        next(line for line in lines if line.startswith("root: ")).removeprefix("root: ").strip("'").replace("''", "'")
        == root
    )
