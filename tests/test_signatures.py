"""What an annotation allows, how it reads, and that `checked` looks without touching."""

from collections.abc import Sequence
from typing import Annotated, Literal

import pytest
import torch
from annotated_types import Ge, Gt, Le, MinLen
from omegaconf import OmegaConf

from anchorlab.signatures import (
    AUTO,
    ArgumentError,
    Count,
    Levels,
    LevelShapes,
    NotNegative,
    Positive,
    Share,
    Text,
    argument,
    check_arguments,
    checked,
)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (Share, [0, 1, 0.5], [-0.001, 1.001, True, "0.5", None, float("nan")]),
        (Positive, [1e-9, 3], [0, -1, float("inf")]),
        (Count, [1, 10**6], [0, 1.5, 1.0, True]),
        (Count | None, [None, 1], [0]),
        (Annotated[int, Ge(1), AUTO], ["auto", 2], [0, None, "all"]),
        (Annotated[bool, AUTO], ["auto", True], [1, None]),
        (Literal["a", 32] | None, ["a", 32, None], ["b", "32", True]),
        (Levels | None, [[1, 2.5], [[1], [2, 3]], None], [[], [0], [-1], [1, [2]], 3, "1", [[[1]]]]),
        (LevelShapes | None, [[[[16, 32]]], [[16, 32], [24, 24]], None], [[16, 32], [[0, 1]], 3]),
        (Text, ["a", 2007], ["", True, None]),
        (Sequence[tuple[Count, Share]], [[[100, 0.7]]], [[[0, 0.7]], [[1, 2]], [[1]]]),
    ],
)
def test_annotation_accepts_and_refuses(annotation, good, bad):
    rule = argument(annotation)
    assert [value for value in good if not rule.accepts(value)] == []
    assert [value for value in bad if rule.accepts(value)] == []


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[float, Gt(0), Le(1)], "a number above 0 and up to 1"),
        (Share | None, "a number from 0 to 1 or null"),
        (NotNegative, "a number of at least 0"),
        (Count | None, "a whole number of at least 1 or null"),
        (Literal["train", "val"] | None, "one of null, train, val"),
        (Annotated[bool, AUTO], "true or false or auto"),
    ],
)
def test_annotation_reads_as_a_sentence(annotation, words):
    assert argument(annotation).wanted == words


@checked
class Part:
    def __init__(self, share: Share, weights: torch.Tensor | None = None, names: Sequence[str] = ()) -> None:
        self.share, self.weights, self.names = share, weights, names


def test_checked_class_keeps_what_it_was_given():
    weights, names = torch.ones(2), ["a"]
    part = Part(1, weights, names=names)
    assert part.weights is weights
    assert part.names is names
    assert type(part.share) is int


def test_lists_of_omegaconf_are_lists():
    class Listing:
        def __init__(self, tiers: Annotated[Sequence[tuple[int, Share]], MinLen(1)]) -> None:
            self.tiers = tiers

    check_arguments(Listing, {"tiers": OmegaConf.create([[1, 0.5]])})
    with pytest.raises(ArgumentError, match="tiers"):
        check_arguments(Listing, {"tiers": OmegaConf.create([[1, 1.5]])})


@pytest.mark.parametrize(("args", "kwargs"), [((1.5,), {}), ((), {"share": 1.5})])
def test_checked_class_refuses_in_one_sentence(args, kwargs):
    with pytest.raises(ArgumentError, match=r"^share=1.5 is not possible: it must be a number from 0 to 1$"):
        Part(*args, **kwargs)


def test_missing_argument_is_pythons_own_error():
    with pytest.raises(TypeError, match="share"):
        Part()  # pyright: ignore[reportCallIssue]


def test_class_that_is_not_decorated_is_checked_from_outside():
    class Outside:
        def __init__(self, share: Share) -> None:
            self.share = share

    check_arguments(Outside, {"share": 0})
    with pytest.raises(ArgumentError, match="share=2"):
        check_arguments(Outside, {"share": 2})
