"""export.py: files that give PyTorch's proposals at any size, a model that loads again, a card, and what is refused."""

import copy
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

import anchorlab
from anchorlab.build import build_validation_data
from anchorlab.commands.evaluate import evaluate
from anchorlab.commands.export import (
    Check,
    MetricsCheck,
    Propose,
    _sizes,
    agreement,
    compare,
    export,
    graphs,
    onnx_runner,
    program_runner,
    reference,
)
from anchorlab.errors import SettingError
from anchorlab.rpn.anchors import AnchorGrid
from anchorlab.rpn.assigners.max_iou import MaxIoUAssigner
from anchorlab.rpn.backbones.backbones import Backbone, Tiny
from anchorlab.rpn.backbones.timm_fpn import EfficientNetLite0FPN
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.heads import RPNHead
from anchorlab.rpn.losses.box import SmoothL1Loss
from anchorlab.rpn.network import RegionProposalNetwork
from anchorlab.rpn.proposals.nms import ProposalSelector
from anchorlab.rpn.proposals.tiered_nms import FittedTieredNMSSelector, TieredNMSSelector
from anchorlab.rpn.samplers import BalancedSampler
from anchorlab.trained.graph import Graph, _with_symbolic_padding
from anchorlab.trained.graph_selection import DROPPED, GraphSelection
from anchorlab.trained.load import Trained, load_trained
from anchorlab.trained.plain import require_plain
from anchorlab.trained.proposer import Proposer
from anchorlab.trained.usage import EXAMPLE, program
from tests.commands.conftest import composed

pytestmark = pytest.mark.long

STRIDES = (8, 16, 32)
SNIPPETS = re.findall(
    r"```python\n(.*?)```", Path(__file__).parents[2].joinpath("docs/using.md").read_text(), re.DOTALL
)
TIERS = [(20, 0.7), (70, 0.8), (100, 0.5), (200, 0.85), (300, 0.5)]


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> tuple[Path, list[Any]]:
    """The run as every kind of file, compared at three sizes."""
    folder = tmp_path_factory.mktemp("export")
    _, checks = export(
        composed("export", f"run={run}", f"output={folder}", "sizes=[96,150,221]", "repeats=1", "scored=1000")
    )
    return folder, checks


def test_every_file_gives_the_proposals_of_pytorch_at_three_sizes(exported):
    folder, checks = exported
    assert {check.file for check in checks} == {"model.safetensors", "model.pt2", "model.onnx"}
    proposals = [check for check in checks if isinstance(check, Check)]
    assert {max(check.size) for check in proposals} == {96, 150, 221}
    for check in proposals:
        assert check.same == check.proposals == check.given, check
        assert check.proposals > 50
        assert check.largest_difference < 1e-4
        assert min(check.milliseconds, check.milliseconds_pytorch) > 0
    assert len(json.loads((folder / "export.json").read_text())) == 12


def test_no_file_holds_a_path_of_this_machine(exported, run):
    """Exporters note for each node the lines of Python that it comes from."""
    for path in exported[0].iterdir():
        content = path.read_bytes()
        for folder in (Path(anchorlab.__file__).parent, Path(torch.__file__).parents[1], run):
            assert str(folder).encode() not in content, (path.name, folder)


def test_every_file_used_as_the_card_says_has_the_ar_of_evaluation(exported, run, tmp_path):
    """In a fresh process each, from photographs: what is resized, padded and scaled back by the lines of the card."""
    _, checks = exported
    scored = [check for check in checks if isinstance(check, MetricsCheck)]
    assert [check.file for check in scored] == ["model.safetensors", "model.pt2", "model.onnx"]
    asked = ("pictures=0", "outcome=0", "precision=32", "eval.batch_size=1")
    (evaluated,) = evaluate(composed("evaluate", f"run={run}", *asked), tmp_path)
    for check in scored:
        assert check.passed, check
        assert check.images == 7
        assert check.evaluated == {name: pytest.approx(evaluated.metrics[name], abs=1e-9) for name in check.evaluated}
        assert 0 < check.evaluated["AR_10"] < check.evaluated["AR_1000"]
    worse = dataclasses.replace(scored[0], metrics={**scored[0].metrics, "AR_10": scored[0].metrics["AR_10"] - 0.002})
    assert not worse.passed


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_lines_of_the_documentation_run_as_they_stand(number, exported, run, tmp_path):
    for name, folder in (("outputs/2026-11-22/10-00-00", run), ("export/10-00-00", exported[0])):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(folder)
    pixels = np.random.default_rng(0).integers(0, 255, (180, 250, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), pixels)
    cv2.imwrite(str(tmp_path / "resized.jpg"), pixels[:69, :96])
    used = f"{SNIPPETS[number]}\nassert 'boxes' not in globals() or 0 < len(boxes) == len(scores)"
    done = subprocess.run([sys.executable, "-c", used], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_take_no_images_in_other_numbers(exported):
    """0..1 as float would be taken for a black image."""
    folder, _ = exported
    image = torch.rand(1, 3, 96, 128)
    with pytest.raises(RuntimeError, match="dtype"):
        program_runner(folder / "model.pt2")(image)
    with pytest.raises(Exception, match=r"tensor\(uint8\)"):
        onnx_runner(folder / "model.onnx", 1)(image)


def test_a_file_with_proposals_of_its_own_does_not_pass():
    few, more = (torch.rand(n, 4).sort(dim=1).values * 100 for n in (0, 3))
    image = torch.zeros(1, 3, 100, 100, dtype=torch.uint8)
    for ours, theirs in ((few, more), (more, few), (more, torch.cat((more, more[:1])))):
        (check,) = compare(_always(ours), {"file": _always(theirs)}, [image], 1)
        assert not check.passed
    assert compare(_always(few), {"file": _always(few)}, [image], 1)[0].passed
    check = Check("model.onnx", (100, 100), 1000, 1000, 990, 0.0, 1.0, 1.0)
    assert check.passed
    assert not dataclasses.replace(check, same=989).passed
    assert not dataclasses.replace(check, given=1001).passed


def _always(boxes: Tensor) -> Propose:
    return lambda image: (boxes, torch.linspace(0.9, 0.5, len(boxes)))


def test_model_loads_in_one_call_and_proposes_as_before(exported, run):
    folder, _ = exported
    image = torch.randint(0, 255, (1, 3, 90, 130), dtype=torch.uint8)
    ours, theirs = (reference(anchorlab.load(path), 32)(image) for path in (folder, run))
    for mine, yours in zip(ours, theirs, strict=True):
        assert torch.equal(mine, yours)
    loaded = load_trained(folder / "model.safetensors")
    assert loaded.resize == (None, 96)
    assert loaded.about["figures"]["AR_100"] == load_trained(run).run.final["AR_100"]  # pyright: ignore
    assert str(run) not in (folder / "model.json").read_text()


def test_card_says_where_the_model_comes_from(exported):
    page = (exported[0] / "MODEL_CARD.md").read_text()
    for words in (
        "stride 8: ",
        "px (width x height)",
        "AR@100",
        "2 epochs",
        "commit",
        "from random weights",
        "`model.onnx`",
    ):
        assert words in page
    assert "None" not in page.replace("session.run(None, ", "")


def test_importing_the_package_imports_no_torch():
    program = "import sys, anchorlab; print(sorted({'torch', 'numpy', 'lightning'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def network_of(
    anchors: AnchorGrid, selector: ProposalSelector, backbone: Backbone | None = None, **more: Any
) -> RegionProposalNetwork:
    torch.manual_seed(0)
    backbone = backbone or Tiny(32)
    network = RegionProposalNetwork(
        backbone=backbone,
        anchors=anchors,
        head=RPNHead(in_channels=32, num_anchors=anchors.num_anchors, **more),
        coder=DeltaCoder((2, 2, 1, 1)),
        assigner=MaxIoUAssigner(),
        sampler=BalancedSampler(),
        loss=SmoothL1Loss(),
        proposals=selector,
    )
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.normal_(std=0.05)
    return network.eval()


@pytest.mark.parametrize(
    ("anchors", "selector", "head"),
    [
        (AnchorGrid([16, 32, 64], strides=STRIDES), ProposalSelector(2000, 100), {}),
        (AnchorGrid([[16, 20], [32], [64]], offset=0.5, strides=STRIDES), ProposalSelector(50, 1000), {}),
        (
            AnchorGrid([16, 32, 64], rounded=True, order="ratio", stride="inferred", strides=STRIDES),
            ProposalSelector(100, 60, 0.5, min_size=12, score_threshold=0.45),
            {"objectness": "sigmoid"},
        ),
        (AnchorGrid([16, 32, 64], strides=STRIDES), TieredNMSSelector(TIERS, 300, 250), {}),
        (
            AnchorGrid([16, 32, 64], strides=STRIDES),
            FittedTieredNMSSelector(TIERS, 12, 300, 250, across_levels=TIERS[1][0], thresholds=[0.6] * len(TIERS)),
            {},
        ),
        (
            AnchorGrid([[16, 20], [32], [64]], strides=STRIDES),
            TieredNMSSelector([(400, 0.9)], [500, 300, 40], 300, min_size=12, score_threshold=0.4, vote_sigma=0.02),
            {},
        ),
        (AnchorGrid([16, 32, 64], strides=STRIDES), ProposalSelector(300, 100, [0.6, 0.7, 0.8], vote_sigma=0.05), {}),
    ],
)
def test_graph_computes_what_the_network_does(anchors, selector, head):
    """Also where a level has fewer anchors than go into NMS, and where thresholds take proposals out."""
    network = network_of(anchors, selector, **head)
    graph = Graph(network, 32).eval()
    for size in ((71, 133), (200, 91)):
        images = torch.randint(0, 255, (2, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            alone, together = graph(images[:1]), Graph(network, 32, batch=2).eval()(images)
        for row, image in enumerate(images.split(1)):
            boxes, scores = reference(network, 32)(image)
            assert 0 < len(scores) < 2000
            num = int(together[2][row])
            for ours in ([together[0][row, :num], together[1][row, :num]], *([alone] if row == 0 else [])):
                torch.testing.assert_close(ours[1], scores, rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(ours[0], boxes, rtol=1e-5, atol=1e-4)
            assert not together[0][row, num:].any()
            assert not together[1][row, num:].any()


@pytest.mark.filterwarnings("ignore:`create_unbacked_symint`:FutureWarning")  # torchvision's, about itself
def test_exported_selection_where_a_level_has_no_candidate_left():
    """torch.export takes for granted that NMS keeps two boxes, and asserts it when the file is used."""
    torch.manual_seed(0)
    boxes = [torch.rand(6, 4).sort(dim=1).values * 100 for _ in range(2)]
    few = torch.tensor([0.9, *[DROPPED] * 5])
    for selector in (ProposalSelector(6, 8), TieredNMSSelector([(1, 0.7), (8, 0.9)], 6, 8)):
        selection = GraphSelection(selector).eval()
        inputs = (boxes, [torch.rand(6), torch.rand(6)], 100, 100)
        module = torch.export.export(selection, inputs, strict=False).module()
        for scores in (inputs[1], [torch.rand(6), few], [few, torch.full((6,), DROPPED)]):
            wanted, found = selection(boxes, scores, 100, 100), module(boxes, scores, 100, 100)
            for ours, theirs in zip(wanted, found, strict=True):
                assert torch.equal(ours, theirs)
            assert (wanted[1] > DROPPED).any()


def test_graph_of_a_backbone_with_batch_norm_and_padding_by_size():
    """timm's convolutions, in the graph's terms."""
    anchors = AnchorGrid([8, 16, 32, 64, 128], strides=(4, 8, 16, 32, 64))
    network = network_of(anchors, ProposalSelector(300, 100), EfficientNetLite0FPN(fpn_channels=32))
    image = torch.randint(0, 255, (1, 3, 133, 171), dtype=torch.uint8)
    wanted = reference(network, 32)(image)
    with torch.no_grad():
        found = Graph(network, 32).eval()(image)
    assert agreement(wanted, found, 171)[0] == len(wanted[1]) == len(found[1]) == 100
    assert torch.equal(reference(network, 32)(image)[0], wanted[0])


class OneLevel(Tiny):
    """Its graph is a third as long to export."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.strides = STRIDES[-1:]

    def forward(self, images: Tensor) -> list[Tensor]:
        return super().forward(images)[-1:]


def test_files_of_several_images_at_a_time(tmp_path, monkeypatch):
    """By the lines of the card too: both kinds of file, each image at another place among the others."""
    anchors = AnchorGrid([[16, 24, 32, 40, 48, 64, 80, 96]], strides=STRIDES[-1:])
    network = network_of(anchors, ProposalSelector(300, 100), OneLevel(32))
    trained = Trained(
        network, {"data": {"short": None, "long": 192, "pad_to": 32}}, tmp_path / "x", None, None, None, {}
    )
    runners = {path.name: run for path, run in graphs(trained, ["torch", "onnx"], tmp_path, 1, batch=2)}
    pixels = np.random.default_rng(0).integers(0, 255, (2, 144, 192, 3), dtype=np.uint8)
    images = [torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() for image in pixels]
    checks = compare(reference(network, 32), runners, images, 1, 2)
    assert [check.file for check in checks] == ["model.pt2", "model.onnx"] * 2
    for check in checks:
        assert check.same == check.proposals == check.given, check
        assert check.proposals > 50
    wanted = Proposer(trained)(pixels[0])
    monkeypatch.chdir(tmp_path)
    for name in runners:
        lines: dict[str, Any] = {}
        exec(program(name, *trained.resize, batch=2).removesuffix(EXAMPLE), lines)
        boxes, scores = lines["propose"](pixels[0])
        ours, theirs = ((torch.from_numpy(b), torch.from_numpy(s)) for b, s in ((boxes, scores), wanted))
        assert agreement(ours, theirs, 192)[0] == len(theirs[1]) == len(ours[1])


def test_padding_that_depends_on_the_side_is_the_same_in_a_graph():
    """timm's convolutions with TensorFlow's padding: odd and even sides, and strides over kernels of one."""
    for kernel, stride, dilation in ((3, 2, 1), (5, 2, 1), (3, 1, 1), (3, 2, 2)):
        conv = Conv2dSame(2, 3, kernel, stride, dilation=dilation)
        other = _with_symbolic_padding(nn.Sequential(copy.deepcopy(conv)))
        assert not isinstance(other[0], Conv2dSame)  # pyright: ignore[reportIndexIssue]
        for size in ((8, 9), (11, 6), (7, 7)):
            image = torch.randn(1, 2, *size)
            torch.testing.assert_close(other(image), conv(image))


def test_agreement_counts_what_is_there_by_box_and_score():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 50, 50], [5, 5, 90, 90]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    moved = boxes + torch.tensor([0.0, 0, 0.02, 0])
    cases: list[tuple[Tensor, Tensor, int]] = [
        (boxes, scores, 3),
        (boxes.flip(0), scores.flip(0), 3),
        (boxes[:2], scores[:2], 2),
        (moved, scores, 0),
        (boxes, scores + 1e-3, 0),
        (boxes, scores + 5e-5, 3),
        (torch.cat((boxes, boxes[:1])), torch.cat((scores, scores[:1])), 3),
        (boxes[[0, 0, 1]], scores[[0, 0, 1]], 2),
        (boxes[:0], scores[:0], 0),
    ]
    for other, other_scores, same in cases:
        assert agreement((boxes, scores), (other, other_scores), 100)[0] == same


def test_nms_that_no_graph_knows_is_replaced_where_asked(run, tmp_path):
    tiered = load_trained(
        run, proposals={"_target_": "anchorlab.rpn.proposals.tiered_nms.TieredNMSSelector", "tiers": [[50, 0.9]]}
    )
    with pytest.raises(SettingError, match=r"cannot express selector TieredNMSSelector: .* alone; take another"):
        require_plain(tiered.network, "ONNX", instead="; take another")
    with pytest.raises(
        SettingError, match=r"An exported graph cannot express selector SoftNMSSelector.*proposals=default"
    ):
        export(
            composed(
                "export",
                f"run={run}",
                f"output={tmp_path / 'no'}",
                "formats=[onnx]",
                "photos=nowhere",
                "proposals=soft_nms",
            )
        )
    voting = load_trained(
        run, proposals={"_target_": "anchorlab.rpn.proposals.nms.ProposalSelector", "vote_sigma": 0.02}
    )
    with pytest.raises(SettingError, match=r"ONNX cannot express box voting$"):
        require_plain(voting.network, "ONNX")
    plain = composed("export", f"run={run}", "proposals=default")["proposals"]
    require_plain(load_trained(run, proposals=plain).network, "ONNX")
    settings = ("formats=[safetensors]", "proposals=default", "proposals.nms_iou=0.5")
    export(composed("export", f"run={run}", f"output={tmp_path / 'out'}", *settings))
    loaded = load_trained(tmp_path / "out")
    assert loaded.network.selector.nms_iou == 0.5
    assert not loaded.about["figures"]  # they were another NMS's


def test_parts_that_cannot_be_handed_over_are_refused_by_their_type(run):
    class Cascade(RegionProposalNetwork):
        pass

    class ThirdOutput(RPNHead):
        pass

    network = load_trained(run).network
    network.__class__ = Cascade
    with pytest.raises(SettingError, match="cannot express network Cascade"):
        require_plain(network, "ONNX")
    network.__class__ = RegionProposalNetwork
    network.head.__class__ = ThirdOutput
    with pytest.raises(SettingError, match="cannot express head ThirdOutput"):
        require_plain(network, "ONNX")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "model.json").unlink(), "an exported model is two files"),
        (lambda folder: _edit(folder, schema_version=99), "update it"),
        (lambda folder: _edit(folder, config={}), "describes no network"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), "no file of tensors"),
        (lambda folder: save_file({"a": torch.zeros(1)}, folder / "model.safetensors"), "does not fit the network"),
    ],
)
def test_broken_exports_are_one_sentence(change, sentence, exported, tmp_path):
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((exported[0] / name).read_bytes())
    change(tmp_path)
    with pytest.raises(SettingError, match=sentence) as error:
        anchorlab.load(tmp_path)
    assert "\n" not in str(error.value)


def test_images_to_check_on_have_to_be_there(exported, run, tmp_path):
    folder, _ = exported
    with pytest.raises(SettingError, match="photos=<folder>"):
        export(composed("export", f"run={folder}", f"output={tmp_path}", "formats=[torch]"))
    with pytest.raises(SettingError, match="sides go from 64 to 8192"):
        export(composed("export", f"run={run}", f"output={tmp_path}", "formats=[torch]", "sizes=[40]"))
    again, checks = export(composed("export", f"run={folder}", f"output={tmp_path}", "formats=[safetensors]"))
    assert (checks, again[0].read_bytes()) == ([], (folder / "model.safetensors").read_bytes())


def test_sizes_to_check_at_follow_from_the_run(run):
    """Those that a graph takes; where that is not so of the run's own size, the sentence speaks of data.long."""
    trained = load_trained(run)
    record = dataclasses.replace(build_validation_data(trained.config["data"]).val_records[0], height=72, width=96)

    def sizes(long: int) -> list[int]:
        data = {**trained.config["data"], "long": long}
        return _sizes(dataclasses.replace(trained, config={**trained.config, "data": data}), record)

    assert (sizes(96), sizes(160)) == ([96, 120, 144], [120, 160, 200])
    with pytest.raises(SettingError, match=r"80 x 60 pixels \(data\.long=80\).* 64 to 8192: .*sizes=\[107,214\]"):
        sizes(80)


def _edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | changes))
