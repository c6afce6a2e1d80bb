"""The pages: every file they name exists, every number worked on them is what the code computes.

Nothing is asked of how a page is worded, but that it holds the numbers found here. docs/check_links.py looks at links.
"""

import contextlib
import importlib.util
import io
import math
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import nms

from anchorlab.rpn.assigners.max_iou import BACKGROUND, IGNORE, OBJECT, MaxIoUAssigner
from anchorlab.rpn.boxes import clip, pairwise_iou
from anchorlab.rpn.coders import DeltaCoder
from anchorlab.rpn.losses.box import LossCounts, Regression, SmoothL1Loss
from anchorlab.rpn.samplers import BalancedSampler

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE = ROOT / "docs" / "how-anchors-work.md"
FOLDERS = "src|tests|docs|conf|benchmarks|experiments"
FOLLOWED = 829  # the anchor that the page follows


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    """docs/draw.py, which is a script and no part of the package."""
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def anchors(drawing: ModuleType) -> Tensor:
    return drawing.example_anchors().boxes


def says(*texts: str) -> None:
    """Assert that the page holds each text, whatever its spaces and line breaks."""
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    for text in texts:
        assert text in page


def iou(a: Tensor, b: Tensor) -> float:
    return pairwise_iou(a[None], b[None]).item()


# ------------------------------------------------------------------------------------------- files and pictures


def test_calls_that_the_architecture_names_exist() -> None:
    rooms = "|".join(path.stem for path in (ROOT / "src" / "anchorlab").iterdir() if not path.stem.startswith("_"))
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(rf"`((?:{rooms})\.(?!py)[\w.]+)`", page)
    assert len(names) > 20
    for name in names:
        pkgutil.resolve_name(f"anchorlab.{name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    named = re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w)(?:::(\w+))?", page.read_text(encoding="utf-8"))
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test


def test_pictures_are_drawn(drawing: ModuleType, tmp_path: Path) -> None:
    drawing.main(tmp_path)
    drawn = {picture.name for picture in tmp_path.iterdir()}
    assert drawn == set(re.findall(r"\(images/(\w+\.png)\)", PAGE.read_text(encoding="utf-8")))
    assert drawn == {picture.name for picture in drawing.IMAGES.iterdir()}
    assert all(1000 <= Image.open(tmp_path / name).width <= 1400 for name in drawn)
    assert sum(picture.stat().st_size for picture in drawing.IMAGES.iterdir()) < 2e6


def test_objects_of_the_example_fill_their_boxes(drawing: ModuleType) -> None:
    """The ellipse and the bar of the pictures are painted exactly where the page says that they are."""
    for kind, (x1, y1, x2, y2) in zip(("ellipse", "bar"), drawing.BOXES.int().tolist(), strict=True):
        outline = drawing.painting.outline(kind, drawing.np.random.default_rng(0))
        assert drawing.painting.rasterise(outline, (y2 - y1, x2 - x1)).shape == (y2 - y1, x2 - x1)


# -------------------------------------------------------------------------------------------------- the example


def test_code_on_the_page_prints_what_it_says() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, PAGE.name, "exec"), {})
    assert printed.getvalue().splitlines() == re.findall(r"print\(.*\)  # (.*)", code)


def test_anchors_of_the_example(drawing: ModuleType, anchors: Tensor) -> None:
    shapes = " | ".join(f"{width:.0f}x{height:.0f}" for width, height in drawing.paper_grid().shapes[0].tolist())
    says(f"14 x 14 x 9 = {len(anchors):,} anchors", f"| width x height | {shapes} |")
    row, column, j = drawing.ROW, drawing.COLUMN, drawing.ANCHOR
    assert (row * 14 + column) * 9 + j == FOLLOWED
    assert torch.equal(anchors[FOLLOWED], drawing.anchors_at(row, column)[j])
    assert anchors[FOLLOWED].tolist() == [72, 40, 200, 168]
    assert drawing.BOXES.tolist() == [[92, 36, 204, 188], [24, 192, 184, 220]]


def test_head_in_numbers(drawing: ModuleType) -> None:
    head = drawing.RPNHead("softmax", in_channels=512, num_anchors=(9,))
    scores, deltas = (sum(p.numel() for p in part.parameters()) for part in (head.scores, head.deltas))
    says(f"18 x 512 + 18 = {scores:,}", f"36 x 512 + 36 = {deltas:,}", f"512 x (4 + 2) x 9 = {512 * 6 * 9:,}")
    linear = torch.nn.functional.linear(torch.tensor([1.0, 2]), torch.tensor([[0.5, -1]]), torch.tensor([0.25]))
    says(f"0.5 * 1 - 1 * 2 + 0.25 = {linear.item()}")
    softmax, sigmoid = torch.tensor([1.0, 3]).softmax(0)[1], torch.tensor(3.0 - 1).sigmoid()
    says(f"20.09 / 22.80 = {softmax:.4f}", f"1 / (1 + e^-(3 - 1)) = {sigmoid:.4f}")


def test_assignment_of_the_example(drawing: ModuleType, anchors: Tensor) -> None:
    overlaps = pairwise_iou(anchors, drawing.BOXES)
    says(f"13,824 / 19,584 = {overlaps[FOLLOWED, 0]:.4f}", f"4,480 / 16,380 = {overlaps[:, 1].max():.4f}")
    label = drawing.example_label().flatten()
    assert label[FOLLOWED] == OBJECT
    assert label[overlaps[:, 1] == overlaps[:, 1].max()].tolist() == [OBJECT] * 3
    counts = [int((label == value).sum()) for value in (OBJECT, IGNORE, BACKGROUND)]
    says("So {} of the 1,764 anchors are object, {} are ignored, and {:,} are background".format(*counts))
    sampled = BalancedSampler()(label, torch.Generator())
    says(f"the sample is {len(sampled.positive)} objects and {len(sampled.negative)} of the background")


def test_coder_of_the_example(drawing: ModuleType, anchors: Tensor) -> None:
    t_x, t_y, t_w, t_h = DeltaCoder().encode(anchors[FOLLOWED], drawing.BOXES[0]).tolist()
    says(f"(148 - 136) / 128 = {t_x:.4f}", f"(112 - 104) / 128 = {t_y:.4f}")
    says(f"log(112 / 128) = {t_w:.4f}", f"log(152 / 128) = {t_h:.4f}")


def test_loss_of_the_example(drawing: ModuleType, anchors: Tensor) -> None:
    predicted = torch.tensor([[0.10, 0.05, -0.20, 0.10]])
    wanted = DeltaCoder().encode(anchors[FOLLOWED], drawing.BOXES[0])[None]
    loss = SmoothL1Loss(beta=1 / 9, divisor="locations", box_weight=10)
    logits, labels = torch.tensor([2.0, -1.0]), torch.tensor([1, 0])
    regression = Regression(predicted, wanted, anchors[FOLLOWED][None], drawing.BOXES[:1], DeltaCoder())
    objectness, box = loss(logits, labels, regression, LossCounts(budget=256, locations=196))
    says(f"(0.1269 + 0.3133) / 2 = {objectness:.4f}", f"10 / 196 * 0.0440 = {box:.4f}")
    parts = 4.5 * (predicted - wanted)[0] ** 2
    says(" + ".join(f"{part:.4f}" for part in parts) + f" = {parts.sum():.4f}")
    says(f"{math.log1p(math.exp(-2)):.4f} + {math.log1p(math.exp(-1)):.4f}")


def test_proposals_of_the_example(drawing: ModuleType, anchors: Tensor) -> None:
    decoded = DeltaCoder().decode(anchors[FOLLOWED], torch.tensor([0.10, 0.05, -0.20, 0.10]))
    says("the box ({:.1f}, {:.1f}, {:.1f}, {:.1f})".format(*decoded.tolist()))
    before, after = (iou(box, drawing.BOXES[0]) for box in (anchors[FOLLOWED], decoded))
    says(f"IoU with the ellipse is {after:.3f}; the anchor's was {before:.3f}")
    clipped = clip(torch.tensor([[140.0, 60, 268, 188]]), (224, 224))
    says("(140, 60, 268, 188) becomes ({:.0f}, {:.0f}, {:.0f}, {:.0f})".format(*clipped[0].tolist()))


def test_suppression_of_the_example() -> None:
    best = torch.tensor([100.0, 40, 200, 180])
    near, far = best + torch.tensor([4.0, 4, 4, 4]), best + torch.tensor([20.0, 0, 20, 0])
    says(f"13,056 / 14,944 = {iou(best, near):.3f} and goes", f"11,200 / 16,800 = {iou(best, far):.3f} and stays")
    assert nms(torch.stack((best, near, far)), torch.tensor([0.9, 0.8, 0.7]), 0.7).tolist() == [0, 2]


def test_picture_of_proposals(drawing: ModuleType) -> None:
    first, _, last = (axis.get_title() for axis in drawing.proposals().axes)
    best, left = re.findall(r"the (\d+) best-scored", first), re.findall(r"(\d+) left", last)
    says(f"The {best[0]} best-scored anchors", f"the {left[0]} that NMS leaves")


# ---------------------------------------------------------------------------------------------- what goes wrong


def test_anchors_that_do_not_fit_or_leave_the_image(drawing: ModuleType, anchors: Tensor) -> None:
    small, one = torch.tensor([[96.0, 96, 128, 128]]), torch.zeros(1, dtype=torch.bool)
    label = MaxIoUAssigner()(drawing.example_anchors(), small, one, drawing.SIZE).label
    best = pairwise_iou(anchors, small).max()
    says(f"has a best IoU of {best:.3f}, and {(label == OBJECT).sum()} anchors tie for it")
    two = torch.zeros(2, dtype=torch.bool)
    label = MaxIoUAssigner(border=0)(drawing.example_anchors(), drawing.BOXES, two, drawing.SIZE).label
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= 224).all(1)
    objects, background = ((label == value).sum() for value in (OBJECT, BACKGROUND))
    says(f"only {inside.sum()} of the 1,764 anchors lie inside, and no more than {objects + background} get a label")
    says(f"{objects} objects and {background} background")


def test_small_numbers_of_the_traps() -> None:
    assert torch.tensor(803.0).bfloat16() == 804
    assert 800 // math.ceil(800 / 64) == 61
    width, height = 4 / math.sqrt(0.05), 4 * math.sqrt(0.05)
    says("803 becomes 804", "800 // 13 = 61", f"{width:.1f} x {height:.1f} pixels")


def test_torchvision_does_what_the_page_says_of_it() -> None:
    """Generator and head that disagree about k: one way it trains, the other way it fails with this message."""
    locations = sum(cells**2 for cells in LEVELS)
    says(f"= {locations:,} locations", f"{locations:,} anchors meet {3 * locations:,} scores")
    torchvision_loss(ratios=(1.0,), head_k=3)
    with pytest.raises(RuntimeError, match="is invalid for input of size") as error:
        torchvision_loss(ratios=(0.5, 1.0, 2.0), head_k=1)
    says(f"`{error.value}`")


LEVELS = (160, 80, 40, 20, 10)  # the cells along each side of a 640 x 640 image


def torchvision_loss(ratios: tuple[float, ...], head_k: int) -> dict[str, Tensor]:
    sizes = ((32,), (64,), (128,), (256,), (512,))
    top = {"training": 10, "testing": 10}
    network = RegionProposalNetwork(
        AnchorGenerator(sizes, (ratios,) * len(sizes)), RPNHead(1, head_k), 0.7, 0.3, 256, 0.5, top, top, 0.7
    )
    features = {str(level): torch.zeros(1, 1, cells, cells) for level, cells in enumerate(LEVELS)}
    images = ImageList(torch.zeros(1, 3, 640, 640), [(640, 640)])
    return network(images, features, [{"boxes": torch.tensor([[10.0, 10, 90, 90]])}])[1]
