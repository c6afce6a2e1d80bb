"""Probe: its trunk is the network's, its pooled features give the network's loss, and it tells hopeless anchors."""

import dataclasses

import pytest
import torch

from anchorlab.analysis import probe as probing
from anchorlab.analysis.probe import Budget, Trunk, probe
from anchorlab.build import build, build_data, build_on
from anchorlab.cli.overrides import check_overrides
from anchorlab.installation import CONFIGS
from anchorlab.rpn.predictions import PendingPredictions
from anchorlab.training.preflight import fit_coder

DATA = (
    "data.reader.num_train=40",
    "data.reader.num_val=4",
    "data.reader.image_size=[64,96]",
    "data.reader.sizes=[12,40]",
    "data.long=96",
    "backbone.channels=32",
)
SMALL = Budget(images=24, held_out=8, trunk_steps=8, steps=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("synthetic")


def networks(root, candidates: dict[str, list[str]], *more: str):
    """Data and a network for each candidate, on one trunk."""
    configs = {
        name: check_overrides("train", CONFIGS, [*DATA, f"data.root={root}", *more, *overrides])
        for name, overrides in candidates.items()
    }
    first = next(iter(configs.values()))
    data = build_data(first)
    data.setup()
    torch.manual_seed(0)
    plain = build_on(build(first["backbone"], "backbone"), first)
    trunk = Trunk(plain.backbone, plain.head.conv, plain.backbone.channels)
    found = {}
    for name, config in configs.items():
        found[name] = build_on(trunk, {**config, "head": {**config["head"], "convs": 0, "channels": None}})
        fit_coder(config, data, found[name])
    return data, found


def test_trunk_is_the_backbone_and_the_heads_convolutions(root):
    _, found = networks(root, {"4": ["anchor.scale=4"]})
    trunk = found["4"].backbone
    assert isinstance(trunk, Trunk)
    images = torch.randn(2, 3, 64, 96)
    for ours, plain in zip(trunk(images), trunk.backbone(images), strict=True):
        assert torch.allclose(ours, trunk.tower(plain), atol=1e-5)


@pytest.mark.parametrize("objectness", ["softmax", "sigmoid"])
def test_loss_on_pooled_features_is_the_networks_own(root, objectness, monkeypatch):
    """With every location pooled, in full precision, nothing is left out."""
    monkeypatch.setattr(probing, "STAGES_DTYPE", torch.float32)
    monkeypatch.setattr(probing, "POOLED_OTHERS", 10_000)
    data, found = networks(
        root,
        {"levels differ": ["anchor.scale=null", "anchor.shapes=[[[16,16]],[[32,32],[32,64]],[[64,64]]]"]},
        f"head={objectness}",
    )
    ((name, network),) = found.items()
    work = probing._Probe(found, data, SMALL, False, lambda *_: None)
    images = [work._image(batch) for batch in work._batches(data.train_records[:3], "")]
    pool = probing._Pool(work._levels, images, found, 0, lambda *_: None)
    anchors, places, labels = pool._prepared(name, network)
    for row, image in enumerate(images):
        assert (pool.places[row] >= 0).all()
        one = network.sample(labels[row], anchors[row], image.boxes, image.ignore, torch.Generator().manual_seed(1))
        outputs = pool._outputs(network.head, places[row][0][one.rows], places[row][1][one.rows])
        levels = work._levels(image)
        whole = PendingPredictions(levels, network.head, anchors[row]).at([one.rows])
        assert torch.allclose(outputs.logits, whole.logits, atol=1e-5)
        assert torch.allclose(outputs.deltas, whole.deltas, atol=1e-5)


def test_the_same_seed_gives_the_same_answer_and_another_does_not(root):
    def answer(seed):
        data, found = networks(root, {"4": ["anchor.scale=4"], "2": ["anchor.scale=2", "anchor.ratios=[1]"]})
        recalls = probe(found, data, dataclasses.replace(SMALL, seed=seed), train_body=True)
        return [recall.compute()["AR_100"] for recall in recalls.values()]

    assert answer(0) == answer(0) != answer(1)


def test_anchors_that_suit_no_object_are_told_from_those_that_do(root):
    fits, hopeless = ["anchor.scale=3"], ["anchor.scale=0.2", "anchor.ratios=[1]"]
    data, found = networks(root, {"fits": fits, "hopeless": hopeless}, "assigner=max_iou", "loss=smooth_l1")
    recalls = probe(found, data, dataclasses.replace(SMALL, trunk_steps=60, steps=60), train_body=True)
    expected = {name: recall.compute()["AR_100"] for name, recall in recalls.items()}
    assert expected["fits"] > expected["hopeless"] + 0.05


def test_no_image_is_fitted_to_and_scored_and_all_are_training_images(root):
    data, _ = networks(root, {"4": ["anchor.scale=4"]})
    fit, held_out = probing._choose(data, SMALL)
    fitted, scored = ({record.image_id for record in records} for records in (fit, held_out))
    assert len(fitted) == 24
    assert len(scored) == 8
    assert fitted.isdisjoint(scored)
    assert fitted | scored <= {record.image_id for record in data.train_records}
