"""The study sees the boxes that training sees, bit for bit, on the grids that the backbone makes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anchorlab.analysis.ground_truth import BackboneGrids, ground_truth, truth_of
from anchorlab.data.module import DataModule
from anchorlab.data.sample import Record
from anchorlab.data.voc import VocReader
from anchorlab.errors import SettingError
from anchorlab.rpn.backbones.backbones import VGG16, Backbone, ResNetFPN, Tiny


class Mixed(Backbone):
    """Halves by rounding down, up, down, down: neither floor(n / stride) nor ceil(n / stride)."""

    channels = 4
    strides = (2, 4, 8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Conv2d(3 if i == 0 else 4, 4, 3 if i == 1 else 2, 2, int(i == 1)) for i in range(4)
        )

    def forward(self, images):
        maps = [images]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return maps[1:]


class Unpadded(Backbone):
    """Convolutions without padding: floor((n - 1) / 2) cells, then floor((n - 15) / 4), and this rounded up."""

    channels = 4
    strides = (2, 4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2)
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 4, 2))
        self.third = nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, images):
        first = self.first(images)
        second = self.second(first)
        return [first, second, self.third(second)]


class Joined(Backbone):
    """Adds a coarse map, made larger, to a fine one: they meet where both sides are multiples of 8 alone."""

    channels = 4
    strides = (4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2, padding=0)

    def forward(self, images):
        fine = self.fine(images)
        coarse = self.coarse(fine)
        return [fine + nn.functional.interpolate(coarse, scale_factor=2), coarse]


def test_a_backbone_that_reads_only_multiples_says_which():
    backbone = Joined().train()
    grids = BackboneGrids(backbone)
    assert grids(torch.tensor([[64, 40], [8, 16]])).tolist() == [[[16, 10], [8, 5]], [[2, 4], [1, 2]]]
    with pytest.raises(SettingError, match=r"multiples of 8: set data\.pad_to=8$"):
        grids(torch.tensor([[64, 40], [8, 12]]))
    assert backbone.training


def test_a_backbone_is_asked_once():
    backbone, asked = Tiny(channels=32), []
    backbone.register_forward_hook(lambda *_: asked.append(1))
    first = BackboneGrids(backbone)
    before = len(asked)
    sizes = torch.tensor([[97, 130]])
    assert torch.equal(BackboneGrids(backbone)(sizes), first(sizes))
    assert len(asked) == before > 0
    assert torch.equal(BackboneGrids(Tiny(channels=32))(sizes), first(sizes))


@pytest.mark.parametrize(
    "backbone",
    [Tiny(32), VGG16(weights="none"), ResNetFPN("resnet18", weights="none"), Mixed(), Unpadded()],
    ids=lambda b: type(b).__name__,
)
def test_grids_are_those_of_the_feature_maps(backbone):
    sizes = torch.tensor([(67, 96), (128, 161), (95, 130), (101, 64), (79, 157)])
    grids = BackboneGrids(backbone)(sizes)
    with torch.no_grad():
        for size, expected in zip(sizes.tolist(), grids.tolist(), strict=True):
            assert [list(m.shape[-2:]) for m in backbone(torch.zeros(1, 3, *size))] == expected


@pytest.mark.parametrize(("short", "long"), [(None, 416), (300, 420), (None, None)])
def test_boxes_equal_those_of_training(real_data, short, long):
    data = DataModule(VocReader, str(real_data / "voc07"), short=short, long=long, limit_val=60)
    truth = truth_of(data, "val", lambda sizes: torch.stack((sizes // 8, sizes // 16), 1))
    dataset = data.dataset("val")
    boxes, images = [], []
    for index in range(len(dataset)):
        sample = dataset[index].sample
        boxes.append(sample.boxes[~sample.ignore])
        images += [index] * int((~sample.ignore).sum())
        assert tuple(truth.sizes[index].tolist()) == sample.image.shape[:2]
    assert np.array_equal(truth.boxes.numpy(), np.concatenate(boxes))
    assert truth.image.tolist() == images
    assert any(record.ignore.any() for record in data.val_records)


def record(height: int, width: int, boxes: list[list[float]], ignore: list[bool]) -> Record:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    number = np.zeros(len(array), dtype=np.int64)
    return Record(0, Path("x"), height, width, array, number.astype(float), number, np.array(ignore, dtype=bool))


def test_sizes_padding_and_ignored_boxes():
    records = [record(100, 200, [[10, 20, 30, 60], [0, 0, 5, 5]], [False, True]), record(50, 40, [], [])]
    truth = ground_truth(records, None, 100, 32, lambda sizes: sizes[:, None] // 8)
    assert truth.sizes.tolist() == [[50, 100], [100, 80]]
    assert truth.padded.tolist() == [[64, 128], [128, 96]]
    assert truth.grids.tolist() == [[[8, 16]], [[16, 12]]]
    assert truth.boxes.tolist() == [[5, 10, 15, 30]]
    assert (truth.size.item(), truth.ratio.item()) == (pytest.approx(200**0.5), 2.0)
    assert len(ground_truth([], None, 100, 1, lambda sizes: sizes[:, None])) == 0
