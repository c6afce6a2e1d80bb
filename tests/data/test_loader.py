"""Files that go bad and processes that are killed or hang in the middle of an epoch: real ones, all of them."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import SequentialSampler

from anchorlab.data.batch import Batch
from anchorlab.data.dataset import EpochSampler, ImageDataset
from anchorlab.data.loader import CHANCES, Loader, LostWorkerError
from anchorlab.data.sample import DataError, Problem, Record, Sample

COUNT = 8


@pytest.fixture
def records(tmp_path, write_image) -> list[Record]:
    return [_record(write_image(tmp_path / f"{n}.png", 12, 20, grey=n), n) for n in range(COUNT)]


def test_the_order_is_asked_for_at_the_first_batch(records):
    sampler = EpochSampler(COUNT, 0, 1, seed=0)
    loader = Loader(ImageDataset(records, None, None), sampler, 3)
    iterator = iter(loader)
    sampler.set_epoch(4)
    seen = [batch.index.tolist() for batch in iterator]
    assert [row for rows in seen for row in rows] == [row for _, row in sampler]
    assert [len(rows) for rows in seen] == [3, 3, 2]
    assert len(loader) == 3
    assert len(Loader(ImageDataset(records, None, None), sampler, 3, drop_last=True)) == 2


def test_the_global_generator_is_left_alone(records):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    _rows(_loader(records, workers=1))
    assert torch.rand(1) == expected


def test_waiting_is_counted(records):
    loader = _loader(records, workers=0)
    assert loader.waited == 0
    _rows(loader)
    assert loader.waited > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_stops_the_epoch_by_name(records, workers):
    records[5].path.write_bytes(b"no image any more")
    with pytest.raises(DataError, match=r"5\.png: image 5: cannot be decoded; mend .* data\.on_error=skip") as caught:
        _rows(_loader(records, workers=workers))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_image_takes_the_place_of_a_corrupt_one(records, workers):
    records[5].path.write_bytes(b"")
    records[6].path.unlink()
    problems: list[Problem] = []
    loader = _loader(records, workers=workers, on_error="skip", report=problems.append)
    assert _rows(loader) == [[0, 1], [2, 3], [4, 7], [7, 7]]
    assert [problem.id for problem in problems] == ["image 5", "image 6", "image 6"]
    assert {problem.file for problem in problems} == {records[5].path, records[6].path}


def test_the_last_image_is_replaced_by_the_first(records):
    records[COUNT - 1].path.unlink()
    assert _rows(_loader(records, on_error="skip"))[-1] == [6, 0]


def test_no_image_at_all_is_an_error_even_when_skipping(records):
    for record in records:
        record.path.unlink()
    with pytest.raises(DataError, match="no image of the data set can be read any more"):
        _rows(_loader(records, on_error="skip"))


class Accident:
    """An augmentation that does something to its process at one image, as often as there are marks in a folder."""

    def __init__(self, folder: Path, image_id: int, times: int, act: Callable[[], None]):
        self.marks = [folder / f"mark {n}" for n in range(times)]
        self.image_id = image_id
        self.act = act
        for mark in self.marks:
            mark.touch()

    def __call__(self, sample: Sample, rng: np.random.Generator, draw: object) -> Sample:
        mark = next((mark for mark in self.marks if mark.exists()), None)
        if sample.image_id == self.image_id and mark is not None:
            mark.unlink()
            self.act()
        return sample


def _be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    signal.pause()


@pytest.mark.parametrize("act", [_be_killed, _hang])
def test_a_lost_process_stops_the_epoch_with_file_and_id(records, tmp_path, act):
    loader = _loader(records, Accident(tmp_path, 4, 1, act), workers=2, timeout=5)
    others = _loading_processes()
    word = "killed" if act is _be_killed else r"hung for 5 s \(data\.timeout\)"
    with pytest.raises(LostWorkerError, match=rf"4\.png: image 4: the process that loads it .*{word}.*on_error=skip"):
        _rows(loader)
    assert _loading_processes() <= others


def _die_at_the_handover() -> None:
    """The batch's memory is fetched from the process that made it, over a connection that begins with a challenge.

    The connection ends first and the process when the other side has seen that, as happens on a busy machine.
    """

    def hang_up(line: Connection, _key: bytes) -> None:
        line.close()
        while _is_told_of_children(os.getppid()):
            pass
        _be_killed()

    connection.deliver_challenge = hang_up


def _is_told_of_children(pid: int) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGCHLD - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells here when a signal is watched for")
def test_a_process_that_dies_while_its_batch_is_fetched_is_a_lost_one(records, tmp_path):
    undisturbed = _pixels(_loader(records))
    accident = Accident(tmp_path, 4, 1, _die_at_the_handover)
    with pytest.raises(LostWorkerError, match=r"the process that loads it was killed|a loading process was killed"):
        _rows(_loader(records, accident, workers=1))
    accident.marks[0].touch()
    assert _pixels(_loader(records, accident, workers=1, on_error="skip")) == undisturbed


@pytest.mark.parametrize("act", [_be_killed, _hang])
def test_a_process_lost_once_changes_no_batch(records, tmp_path, act):
    undisturbed = _pixels(_loader(records, _add_noise))
    problems: list[Problem] = []
    accident = Accident(tmp_path, 4, 1, act)

    def augment(sample: Sample, rng: np.random.Generator, draw: object) -> Sample:
        return _add_noise(accident(sample, rng, draw), rng, draw)

    loader = _loader(records, augment, workers=2, timeout=5, on_error="skip", report=problems.append)
    assert _pixels(loader) == undisturbed
    assert [problem.id for problem in problems] == ["image 4"]
    assert "another process tries it again" in problems[0].message
    assert _pixels(loader) == undisturbed  # the next epoch, with the new processes


def test_an_image_that_loses_every_process_is_left_out(records, tmp_path):
    problems: list[Problem] = []
    accident = Accident(tmp_path, 4, CHANCES, _be_killed)
    loader = _loader(records, accident, workers=2, on_error="skip", report=problems.append)
    assert _rows(loader) == [[0, 1], [2, 3], [5, 5], [6, 7]]
    assert "the image is left out" in problems[-1].message
    assert len(problems) == CHANCES


def test_processes_that_never_get_anywhere_end_the_run(records, tmp_path):
    """A file that nobody ever writes to blocks whoever opens it: a hanging network disk on one's own machine."""
    for record in records:
        record.path.unlink()
        os.mkfifo(record.path)
    loader = _loader(records, workers=1, timeout=0.2, on_error="skip")
    with pytest.raises(LostWorkerError, match="processes were lost 11 times"):
        _rows(loader)


def test_a_process_killed_between_two_epochs_is_replaced(records):
    loader = _loader(records, workers=2, on_error="skip")
    others = _loading_processes()
    first = _rows(loader)
    (_loading_processes() - others).pop().kill()
    assert _rows(loader) == first


def _loader(records: list[Record], augment=None, workers: int = 0, **settings) -> Loader:
    dataset = ImageDataset(records, None, None, augment)
    return Loader(dataset, SequentialSampler(dataset), 2, workers=workers, **settings)


def _rows(loader: Loader) -> list[list[int]]:
    return [batch.index.tolist() for batch in loader]


def _pixels(loader: Loader) -> list[bytes]:
    return [_bytes(batch) for batch in loader]


def _bytes(batch: Batch) -> bytes:
    return batch.images.numpy().tobytes()


def _loading_processes() -> set:
    return {process for process in multiprocessing.active_children() if process.daemon}


def _add_noise(sample: Sample, rng: np.random.Generator, draw: object) -> Sample:
    sample.image[:] = rng.integers(0, 256, sample.image.shape)
    return sample


def _record(path: Path, image_id: int) -> Record:
    none = np.zeros(0)
    return Record(image_id, path, 12, 20, none.reshape(0, 4), none, none.astype(np.int64), none.astype(bool))
