"""What people type who come from other projects: the hint exists, works, and is what the docs say."""

from pathlib import Path

import pytest

from anchorlab.config.elsewhere import ELSEWHERE, END, START, as_markdown
from anchorlab.config.settings import leaf_keys, unknown_key
from tests.faults.conftest import checked, refused

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
LINES = sorted({here.words for names in ELSEWHERE.values() for here in names.values()})


def lines() -> list[tuple[str, ...]]:
    """Command lines that hold every proposal: those that choose something alone, single values together."""
    single = {line.partition("=")[0]: line for line in LINES if " " not in line and "." in line.partition("=")[0]}
    others = [line for line in LINES if line not in single.values()]
    return [
        tuple(line for line in single.values() if not line.startswith("hydra.")),
        *(tuple(o.split()) for o in others),
    ]


@pytest.mark.long
@pytest.mark.parametrize("words", lines(), ids=lambda words: words[0])
def test_what_is_proposed_is_a_command_line_that_works(words):
    config = checked(*(word for word in words if not word.startswith("hydra.")), classes="here")
    assert {word.partition("=")[0].partition(".")[0] for word in words} <= {*config, "hydra"}


def test_no_name_from_elsewhere_hides_one_of_ours():
    config = checked()
    known = {*leaf_keys(config), *config}
    assert not known.intersection(name for names in ELSEWHERE.values() for name in names)


@pytest.mark.parametrize(
    "word", ["trainer.fast_dev_run=true", "+trainer.fast_dev_run=true", "++trainer.fast_dev_run=1"]
)
def test_a_name_from_elsewhere_is_answered_with_ours(word):
    refused("trainer.fast_dev_run is not a setting: here it is debug=one_step", word)


def test_a_note_says_what_differs():
    sentence = unknown_key("trainer.limit_train_batches", ["trainer.limit_val_batches"])
    assert sentence.endswith("here it is data.limit_train=100 (images, not batches)")


def test_a_plus_before_a_choice_is_read_as_meant():
    assert checked("+experiment=recipe") == checked("experiment=recipe")


def test_the_page_is_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(START)[1].split(END)[0].strip() == as_markdown()
