"""The head: what its channels are, what levels share, and that its 1x1 convolutions are linear layers."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anchorlab.rpn.heads import RPNHead

GRIDS = [(7, 5), (4, 3)]  # non-square, so that swapped axes show


def features(channels: int = 8, batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, channels, *grid) for grid in GRIDS]


@pytest.mark.parametrize(("objectness", "scores_per_anchor"), [("softmax", 2), ("sigmoid", 1)])
def test_channels(objectness: Literal["softmax", "sigmoid"], scores_per_anchor: int) -> None:
    head = RPNHead(objectness, in_channels=8, num_anchors=(3, 3))
    for (scores, deltas, _), (height, width) in zip(head(features()), GRIDS, strict=True):
        assert scores.shape == (2, scores_per_anchor * 3, height, width)
        assert deltas.shape == (2, 4 * 3, height, width)
        assert head.logits(scores).shape == (2, 3, height, width)


def test_1x1_convolution_is_a_linear_layer_at_every_location() -> None:
    """Where do anchors come in, if an RPN only convolves a feature map? As the meaning of these channels."""
    k, channels = 3, 8
    head = RPNHead(in_channels=channels, num_anchors=(k,))
    feature = features(batch=1)[0]
    ((scores, deltas, _),) = head([feature])
    hidden = head.conv(feature)
    for convolved, name, outputs in ((scores, "scores", 2 * k), (deltas, "deltas", 4 * k)):
        linear = nn.Linear(channels, outputs)
        state = head.get_submodule(f"{name}.{k}").state_dict()
        linear.load_state_dict({"weight": state["weight"].flatten(1), "bias": state["bias"]})
        for row, column in ((0, 0), (6, 4), (2, 3)):
            torch.testing.assert_close(convolved[0, :, row, column], linear(hidden[0, :, row, column]))


def test_softmax_equals_the_sigmoid_of_one_logit() -> None:
    head = RPNHead("softmax", in_channels=8, num_anchors=(3,))
    scores = 5 * torch.randn(2, 6, 4, 5)  # per anchor: background, object
    labels = torch.randint(2, (2, 3, 4, 5))
    logits = head.logits(scores)
    pairs = scores.view(2, 3, 2, 4, 5)
    torch.testing.assert_close(logits.sigmoid(), pairs.softmax(dim=2)[:, :, 1])
    cross_entropy = F.cross_entropy(pairs.transpose(1, 2), labels)
    torch.testing.assert_close(F.binary_cross_entropy_with_logits(logits, labels.float()), cross_entropy)


def test_sigmoid_scores_are_the_logits() -> None:
    scores = torch.randn(2, 3, 4, 5)
    assert torch.equal(RPNHead("sigmoid", in_channels=8, num_anchors=(3,)).logits(scores), scores)


def test_levels_share_weights_but_for_those_of_another_k() -> None:
    torch.manual_seed(0)
    head = RPNHead("sigmoid", in_channels=8, num_anchors=(3, 3, 1))
    same = torch.randn(1, 8, 4, 3)
    (first, *_), (second, *_), (third, *_) = head([same, same, same])
    assert torch.equal(first, second)
    assert third.shape[1] == 1
    assert set(dict(head.scores.named_children())) == {"1", "3"}


def test_width_and_depth_of_the_convolutions() -> None:
    head = RPNHead(channels=6, convs=2, in_channels=8, num_anchors=(3, 3))
    convs = [layer for layer in head.conv if isinstance(layer, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels) for conv in convs] == [(8, 6), (6, 6)]
    assert head(features())[0][1].shape == (2, 12, 7, 5)


def test_starts_as_the_paper() -> None:
    torch.manual_seed(0)
    head = RPNHead(in_channels=128, num_anchors=(9,))
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.05)


def test_every_anchor_may_predict_itself_at_first() -> None:
    torch.manual_seed(0)
    head = RPNHead(delta_std=0, in_channels=8, num_anchors=(3, 1))
    large = [100 * feature for feature in features()]
    for scores, deltas, _ in head(large):
        assert not deltas.any()
        assert scores.any()


def test_delta_std_scales_the_weights_of_the_paper() -> None:
    """The same random numbers, so that nothing else of the start depends on it."""
    heads = []
    for std in (0.01, 0.02):
        torch.manual_seed(0)
        heads.append(RPNHead(delta_std=std, in_channels=8, num_anchors=(3,)).state_dict())
    for name, value in heads[0].items():
        factor = 2 if name.startswith("deltas") else 1
        assert torch.equal(heads[1][name], factor * value)


def test_no_images() -> None:
    head = RPNHead(in_channels=8, num_anchors=(3, 3))
    assert head(features(batch=0))[0][0].shape == (0, 6, 7, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objectness": "tanh"}, "objectness=tanh"),
        ({"channels": 0}, "channels=0"),
        ({"convs": -1}, "convs=-1"),
        ({"delta_std": -0.01}, "delta_std=-0.01"),
        ({"convs": 0, "channels": 8}, "convs=0 .*channels=8"),
        ({"num_anchors": (3, 0)}, r"k=\[3, 0\]"),
        ({"num_anchors": ()}, r"k=\[\]"),
    ],
)
def test_wrong_settings_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RPNHead(**{"in_channels": 8, "num_anchors": (3,), **arguments})
