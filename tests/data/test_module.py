"""Which images belong to which split, process and epoch; problems raised together or listed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.progress import _BatchProgress

from anchorlab.data.coco import CocoReader
from anchorlab.data.module import DataModule, divide, first_by_hash
from anchorlab.data.sample import DataError, Record

SIZE = (12, 20)  # height, width
NAMES = ["cat", "dog", "cow"]
ROWS = [SimpleNamespace(image_id=f"image {n}", path=Path(f"{n}.jpg"), boxes=[]) for n in range(60)]


@pytest.fixture
def make_data(tmp_path, write_image):
    """`make(images, val, **settings)`: a module over images of which each holds a box of every category."""

    def make(images: int = 10, val: int | None = None, bad: int = 0, bare: int = 0, **settings: Any) -> DataModule:
        for split, count in (("train", images), ("val", val)):
            if count is not None:
                content = _coco(split, count, bad)
                if split == "train":  # the first `bare` images have no boxes
                    without = {f"train {n}" for n in range(bare)}
                    rows = content["annotations"]
                    content["annotations"] = [row for row in rows if row["image_id"] not in without]
                (tmp_path / f"{split}.json").write_text(json.dumps(content))
                for image in content["images"]:
                    write_image(tmp_path / image["file_name"], *SIZE)
        return DataModule(CocoReader, str(tmp_path), **{"workers": 0, "batch_size": 4, **settings})

    return make


def test_a_split_of_its_own_validates(make_data):
    data = make_data(images=6, val=3)
    data.setup()
    assert [record.image_id for record in data.train_records] == [f"train {n}" for n in range(6)]
    assert [record.image_id for record in data.val_records] == [f"val {n}" for n in range(3)]
    assert data.category_names == NAMES
    assert data.problems == []


def test_else_a_share_is_chosen_by_hash(make_data):
    data = make_data(images=10, val_fraction=0.3)
    data.setup()
    ids = [{record.image_id for record in records} for records in (data.train_records, data.val_records)]
    assert (len(ids[0]), len(ids[1])) == (7, 3)
    assert ids[0] | ids[1] == {f"train {n}" for n in range(10)}
    other = make_data(images=10, val_fraction=0.3, split_seed=1)
    other.setup()
    assert {record.image_id for record in other.val_records} != ids[1]


@given(st.integers(2, 60), st.floats(0.001, 0.999), st.integers(0, 3))
def test_a_division_is_complete_and_stable(count, fraction, seed):
    rows = cast(list[Record], ROWS[:count])
    train, val = divide(rows, fraction, seed)
    assert len(val) == min(max(1, round(fraction * count)), count - 1)
    assert [row for row in rows if row in train] == train
    assert [row for row in rows if row not in train] == val
    less = divide(rows[1:], fraction, seed)[1] if count > 2 else val
    assert len({row.image_id for row in val} ^ {row.image_id for row in less}) <= 2
    assert divide(rows[::-1], fraction, seed)[1] == val[::-1]  # the order of the files does not matter


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_an_impossible_share(make_data, fraction):
    with pytest.raises(ValueError, match=f"^val_fraction={fraction} .* above 0 and below 1$"):
        make_data(val_fraction=fraction).setup()


def test_a_single_image_cannot_be_divided(make_data):
    with pytest.raises(DataError, match="no usable image for the split 'val'"):
        make_data(images=1).setup()


@pytest.mark.parametrize("val", [3, None])
def test_a_holdout_is_scored_in_place_of_the_split_of_its_own(make_data, val):
    plain, data = (make_data(images=20, val=val, holdout=share, val_fraction=0.3) for share in (None, 0.25))
    plain.setup()
    data.setup()
    trained, scored = ([record.image_id for record in records] for records in (data.train_records, data.val_records))
    assert sorted(trained + scored) == sorted(record.image_id for record in plain.train_records)
    assert len(scored) == round(0.25 * len(plain.train_records))
    again = make_data(images=20, val=val, holdout=0.25, val_fraction=0.3)
    again.setup("validate")
    assert [record.image_id for record in again.val_records] == scored


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_an_impossible_holdout(make_data, share):
    with pytest.raises(ValueError, match=f"^holdout={share} .* above 0 and below 1"):
        make_data(val=2, holdout=share).setup()


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 3))
def test_fewer_images_are_a_subset_of_more(few, many, seed):
    few, many = sorted((few, many))
    rows = cast(list[Record], ROWS)
    small, large = (first_by_hash(rows, count, seed) for count in (few, many))
    assert (len(small), len(large)) == (few, many)
    assert [row for row in large if row in small] == small
    assert first_by_hash(rows, None, seed) == rows


def test_limits(make_data):
    data = make_data(images=6, val=5, limit_train=2, limit_val=3)
    data.setup()
    assert (len(data.train_records), len(data.val_records)) == (2, 3)


def test_every_problem_of_both_splits_is_raised_at_once(make_data):
    data = make_data(images=3, val=2, bad=1)
    with pytest.raises(DataError, match=r"data\.on_error=skip") as caught:
        data.setup()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("2 problems in data.root=")
    assert ["train.json" in lines[1], "val.json" in lines[2]] == [True, True]
    assert "zero-area box: (1.0, 2.0, 0.0, 4.0)" in lines[1]
    with pytest.raises(DataError):
        data.setup()  # still as bad as before


def test_problems_that_are_skipped_are_listed(make_data):
    data = make_data(images=3, val=2, bad=1, on_error="skip")
    data.setup()
    data.setup()  # reads nothing twice
    assert [problem.file.name for problem in data.problems] == ["train.json", "val.json"]
    assert [len(record.boxes) for record in data.train_records] == [2, 3, 3]


def test_a_wrong_word_for_on_error(make_data):
    with pytest.raises(ValueError, match="on_error=ignore is not possible: it must be one of raise, skip"):
        make_data(on_error="ignore")


def test_categories_that_are_kept(make_data):
    data = make_data(images=4, val=2, categories=["cow", "cat"])
    data.setup()
    assert data.category_names == ["cow", "cat"]
    assert data.train_records[0].category.tolist() == [1, 0]
    assert data.train_records[0].boxes.tolist() == [[1, 2, 4, 6], [3, 2, 6, 6]]
    with pytest.raises(ValueError, match="no category 'cwo'; did you mean 'cow'"):
        make_data(categories=["cwo"]).setup()


@pytest.mark.parametrize("val", [2, None])
def test_unseen_categories_are_scored_and_the_trained_ones_known(make_data, val):
    data = make_data(images=8, val=val, categories=["cow"], score="unseen")
    data.setup()
    assert data.category_names == ["cow", "cat", "dog"]
    assert [record.category.tolist() for record in data.train_records] == [[0]] * len(data.train_records)
    assert all(record.known is None for record in data.train_records)
    for record in data.val_records:  # in the order of the file: cat, dog, cow
        assert record.category.tolist() == [1, 2, 0]
        assert record.known is not None
        assert record.known.tolist() == [False, False, True]
        assert not record.ignore.any()
    batch = next(iter(data.val_dataloader()))
    assert batch.targets is not None
    assert batch.targets[0].known.tolist() == [False, False, True]
    assert batch.ignore[0].tolist() == [False, False, True]  # no loss takes it for background


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"score": "unseen"}, "data.score=unseen needs data.categories"),
        ({"score": "unseen", "categories": ["cat"], "validate_on": "train"}, "set data.validate_on=val"),
        ({"score": "all"}, "score=all is not possible: it must be one of kept, unseen"),
    ],
)
def test_what_cannot_be_scored(make_data, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_data(**settings)


def test_images_without_boxes_are_trained_on(make_data):
    data = make_data(images=4, val=2, bare=3)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch.num_boxes) == [0, 0, 0, 3]


@pytest.mark.parametrize("settings", [{"categories": []}, {"bare": 5}])
def test_a_split_without_a_box_is_refused(make_data, settings):
    with pytest.raises(DataError, match="the 4 images of the split 'train' have no box"):
        make_data(images=4, val=2, **settings).setup()


def test_a_split_of_crowds_alone_is_refused(make_data, tmp_path):
    data = make_data(images=4, val=2)
    content = json.loads((tmp_path / "val.json").read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = "1"
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="the split 'val' has 6 boxes and none to be found"):
        data.setup()


def test_validation_by_rule_has_a_box_where_there_is_one(make_data):
    for seed in range(8):
        data = make_data(images=8, bare=6, val_fraction=0.1, split_seed=seed)
        data.setup()
        assert sum(len(record.boxes) for record in data.val_records) > 0
        assert len(data.val_records) <= 2


def test_training_drops_an_incomplete_batch_but_never_the_only_one(make_data):
    assert [len(batch.index) for batch in make_data(images=6, val=2).train_dataloader()] == [4]
    assert [len(batch.index) for batch in make_data(images=3, val=2).train_dataloader()] == [3]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_bad_during_training_is_named(make_data, workers):
    data = make_data(images=4, val=2, workers=workers)
    data.train_records[2].path.write_bytes(b"no image any more")
    with pytest.raises(DataError, match=r"2\.png: image train 2: cannot be decoded; .*data\.on_error=skip"):
        list(data.train_dataloader())


def test_validation_keeps_order_and_every_image(make_data):
    batches = list(make_data(images=4, val=6).val_dataloader())
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert batches[0].targets is not None
    larger = make_data(images=4, val=6, val_batch_size=6)
    assert [len(batch.index) for batch in larger.val_dataloader()] == [6]


def test_other_splits_are_read_on_demand(make_data):
    data = make_data(images=4, val=2)
    data.setup("validate")
    assert list(data._records) == ["val"]
    with pytest.raises(DataError, match="has no split 'test', only: train, val"):
        data.eval_dataloader("test")


def test_batches_are_padded_to_a_multiple(make_data):
    batch = next(iter(make_data(images=4, val=2, long=None, pad_to=16).val_dataloader()))
    assert batch.images.shape == (2, 3, 16, 32)


def test_processes_share_the_global_batch(make_data):
    alone = list(make_data(images=8, val=5).train_dataloader())
    seen, scored = [], []
    for rank in range(2):
        data = make_data(images=8, val=5)
        data.trainer = cast(Any, SimpleNamespace(global_rank=rank, world_size=2, fit_loop=_at_the_start()))
        seen.append([set(batch.index.tolist()) for batch in data.train_dataloader()])
        scored.append([batch.index.tolist() for batch in data.val_dataloader()])
    assert [first | second for first, second in zip(*seen, strict=True)] == [
        set(batch.index.tolist()) for batch in alone
    ]
    assert all(len(part) == 2 for part in seen[0] + seen[1])
    assert scored == [[[0, 2], [4]], [[1, 3], [0]]]  # image 0 comes twice: both processes get three


def test_a_batch_that_cannot_be_shared(make_data):
    data = make_data(images=8, val=5)
    data.trainer = cast(Any, SimpleNamespace(global_rank=0, world_size=3))
    with pytest.raises(ValueError, match=r"data\.batch_size=4 .* cannot be divided among 3: take 6"):
        data.train_dataloader()


def _at_the_start() -> SimpleNamespace:
    """Lightning's fit loop, of which no batch is done."""
    return SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=_BatchProgress()))


class Recorder(lightning.LightningModule):
    """Trains nothing and writes down what it is shown."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int], int]] = []

    def training_step(self, batch, step):
        self.optimizers().step()  # type: ignore[union-attr]
        self.seen.append((self.current_epoch, batch.index.tolist(), int(batch.images.sum())))

    def validation_step(self, batch, step):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("at_train_end", [False, True], ids=["after validation", "at the epoch's end"])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(make_data, tmp_path, workers, at_train_end):
    def train(epochs: int, resume: Path | None) -> Recorder:
        data = make_data(images=6, val=2, batch_size=2, workers=workers, augment=_add_noise)
        module = Recorder()
        saver = ModelCheckpoint(
            tmp_path, save_last=True, save_top_k=0, save_on_train_epoch_end=at_train_end, enable_version_counter=False
        )
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[saver],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        trainer.fit(module, data, ckpt_path=None if resume is None else str(resume))
        return module

    whole = train(4, None).seen
    assert [epoch for epoch, _, _ in whole] == sorted(3 * [0, 1, 2, 3])
    (tmp_path / "last.ckpt").unlink()
    train(2, None)
    assert train(4, tmp_path / "last.ckpt").seen == whole[6:]


def _add_noise(sample, rng, draw):
    sample.image[:] = rng.integers(0, 256, sample.image.shape)
    return sample


def _coco(split: str, count: int, bad: int) -> dict[str, Any]:
    images = [{"id": f"{split} {n}", "file_name": f"{split}/{n}.png"} for n in range(count)]
    annotations = [
        {
            "id": len(NAMES) * n + category,
            "image_id": image["id"],
            "category_id": category,
            "bbox": [1 + category, 2, 0 if n < bad and category == 0 else 3, 4],
        }
        for n, image in enumerate(images)
        for category in range(len(NAMES))
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}
