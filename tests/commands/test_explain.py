"""explain.py: the numbers of one location are those of the network, the pictures are drawn, wrong words are refused."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anchorlab.build import build
from anchorlab.commands.explain import explain, find_image, follow, in_words
from anchorlab.errors import SettingError
from anchorlab.plots.explain import Steps, number_columns
from anchorlab.trained.load import Trained, load_trained
from tests.commands.conftest import composed


@pytest.fixture(scope="module")
def trained(run) -> Trained:
    return load_trained(run)


@pytest.fixture(scope="module")
def records(trained) -> list[Any]:
    data: Any = build(trained.config["data"], augment=None, seed=0)
    return data.val_records


def steps_of(trained: Trained, record: Any, **more: Any) -> Steps:
    return follow(trained, record, True, **{"at": None, "level": None, "top": 20, **more})


def test_location_is_that_of_the_best_proposal_and_its_numbers_are_the_network_s(trained, records):
    steps, network = steps_of(trained, records[0]), trained.network
    j = int(np.abs(np.clip(steps.decoded, 0, (96, 64, 96, 64)) - steps.proposals[0]).max(1).argmin())
    np.testing.assert_allclose(np.clip(steps.decoded[j], 0, (96, 64, 96, 64)), steps.proposals[0], atol=1e-3)
    probability = 1 / (1 + np.exp(-steps.logits))
    assert probability[j] == pytest.approx(steps.proposal_scores[0], abs=1e-6)
    np.testing.assert_allclose(steps.scores[:, 1] - steps.scores[:, 0], steps.logits, atol=1e-5)
    place = steps.place
    np.testing.assert_allclose(steps.probability_maps[:, place.row, place.column], probability, atol=1e-6)
    again = network.coder.decode(torch.from_numpy(steps.anchors), torch.from_numpy(steps.deltas))
    np.testing.assert_array_equal(steps.decoded, again.numpy())
    assert (steps.num_anchors, len(steps.features), steps.candidates.shape[1]) == (378, 3, 4)


def test_a_given_point_is_followed_on_the_level_asked_for(trained, records):
    steps = steps_of(trained, records[1], at=[41.0, 21.0], level=1)
    assert (steps.place.level, steps.place.row, steps.place.column) == (1, 1, 3)  # cells of 16 px around 16 and 48
    centres = (steps.anchors[:, :2] + steps.anchors[:, 2:]) / 2
    np.testing.assert_allclose(centres, [[48, 16]] * 3)
    other = steps_of(trained, records[1], at=[41.0, 21.0])
    best = [steps_of(trained, records[1], at=[41.0, 21.0], level=level).logits.max() for level in range(3)]
    assert other.logits.max() == max(best)


def test_recall_in_words_is_that_of_the_boxes_drawn(trained, records):
    steps = steps_of(trained, records[0], top=1000)
    assert steps.truth is not None
    assert len(steps.truth) == len(records[0].boxes)
    assert in_words(steps)[-1].startswith(f"8. The best 1000 find {int(steps.found.sum())} of {len(steps.truth)} boxes")
    names, rows = number_columns(steps)
    assert len(rows) == 3
    assert len(names) == len(rows[0]) == 10


def test_pictures_are_drawn_with_and_without_boxes(run, records, tmp_path):
    known = explain(composed("explain", f"run={run}", f"image={records[0].image_id}", f"output={tmp_path / 'a'}"))
    pixels = Image.open(records[0].path).convert("RGB")
    pixels.save(tmp_path / "photo.png")
    unknown = explain(
        composed("explain", f"run={run}", f"image={tmp_path / 'photo.png'}", f"output={tmp_path / 'b'}", "at=[30,30]")
    )
    assert [len(known), len(unknown)] == [8, 7]
    assert all(Image.open(path).width > 700 for path in [*known, *unknown])


def test_wrong_images_and_places_are_one_sentence(trained, records, tmp_path):
    with pytest.raises(SettingError, match="no image of the run's validation split"):
        find_image(trained, str(tmp_path / "nothing.png"))
    with pytest.raises(SettingError, match="lies outside the image"):
        steps_of(trained, records[0], at=[500.0, 3.0])
    with pytest.raises(SettingError, match="levels 0 to 2"):
        steps_of(trained, records[0], level=7)
    found, known = find_image(trained, str(records[0].path))
    assert (found.image_id, known) == (records[0].image_id, True)
