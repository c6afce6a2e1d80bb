"""propose.py: which images are meant, what is written, what survives an interruption, what could not be read."""

import json
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anchorlab.commands.propose import Proposed, picture_names, propose, propose_with
from anchorlab.errors import SettingError
from anchorlab.trained.images import list_images, parcels
from anchorlab.trained.load import load_trained
from anchorlab.trained.writers import WRITERS, Part
from tests.commands.conftest import CONFIGS, composed

QUICK = ("pictures=0", "workers=0", "limit=20")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Seven images of different sizes, two of them in a folder below."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "below").mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = rng.integers(0, 255, (48 + 8 * i, 90 - 6 * i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("below" if i > 4 else ".") / f"{i}.png")
    (folder / "notes.md").write_text("no image")
    return folder


def proposed(run: Path, source: object, output: Path, *overrides: str) -> Proposed:
    return propose(composed("propose", f"run={run}", f"source={source}", f"output={output}", *QUICK, *overrides))


def results(output: Path) -> dict[Any, list[dict[str, Any]]]:
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for result in json.loads((output / "proposals.json").read_text()):
        by_image.setdefault(result["image_id"], []).append(result)
    return by_image


def test_files_folders_globs_and_lists_name_images(photos, tmp_path):
    names = ["0.png", "1.png", "2.png", "3.png", "4.png", "below/5.png", "below/6.png"]
    assert list_images(str(photos)).ids == names
    assert list_images(str(photos / "[0-2].png")).ids == names[:3]
    assert list_images([str(photos / "3.png"), str(photos)]).ids == ["3.png", *names[:3], "4.png", *names[5:]]
    (photos / "list.txt").write_text("# a comment\n1.png\n\nbelow/6.png\n")
    assert list_images(str(photos / "list.txt")).ids == ["1.png", "below/6.png"]
    (tmp_path / "list.txt").write_text("1.png\n")
    assert list_images(str(tmp_path / "list.txt"), str(photos)).paths == [photos / "1.png"]
    (photos / "list.txt").unlink()


def test_sources_that_name_nothing_or_the_same_name_twice_are_one_sentence(photos, tmp_path):
    shutil.copy(photos / "1.png", tmp_path / "1.png")
    for source, sentence in (
        (str(photos / "*.jpg"), "names no image"),
        (str(photos / "nothing.json"), "does not exist"),
        ([str(photos / "1.png"), str(tmp_path / "1.png")], "different images by the same name"),
    ):
        with pytest.raises(SettingError, match=sentence):
            list_images(source)
    with pytest.raises(SettingError, match="format=png is not possible"):
        composed("propose", "run=x", "source=y", "format=png")


def test_every_format_holds_what_the_network_proposes(run, photos, tmp_path):
    quick = ("batch_size=1", "chunk=3", "precision=32")  # "auto" is bf16 on some processors
    done = proposed(run, photos, tmp_path, "format=[coco,npz,detectron2]", *quick)
    assert [path.name for path in done.files] == ["proposals.json", "proposals.npz", "proposals.pkl"]
    assert (done.images, done.unreadable) == (7, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in done.files)

    trained = load_trained(run)
    pad_to = trained.config["data"]["pad_to"]
    (parcel,) = parcels(list_images(str(photos / "below/6.png")), [[0]], trained.resize, pad_to, 1, 0)
    (batch,) = parcel.batches
    with torch.no_grad():
        found = trained.network.propose(
            trained.network(trained.network.prepare(batch.images, batch.sizes)), batch.sizes
        )
    wanted = batch.to_original(0, found[0].boxes)[:20].float().numpy()

    with np.load(tmp_path / "proposals.npz") as arrays:
        assert arrays["image_ids"][-1] == "below/6.png"
        assert arrays["size"][-1].tolist() == [96, 54]
        start = int(arrays["num"][:-1].sum())
        boxes, scores = arrays["boxes"][start:], arrays["scores"][start:]
        assert len(arrays["boxes"]) == len(arrays["scores"]) == arrays["num"].sum()
    np.testing.assert_allclose(boxes, wanted, atol=1e-3)
    coco = results(tmp_path)["below/6.png"]
    corners = np.array([result["bbox"] for result in coco])
    corners[:, 2:] += corners[:, :2]
    np.testing.assert_allclose(corners, wanted, atol=2e-3)
    assert all(a["score"] >= b["score"] for a, b in pairwise(coco))

    content = pickle.loads((tmp_path / "proposals.pkl").read_bytes())  # our own: as Detectron2 reads it
    assert content["bbox_mode"] == 0
    assert content["ids"][-1] == "below/6.png"
    np.testing.assert_array_equal(content["boxes"][-1], boxes)
    np.testing.assert_allclose(1 / (1 + np.exp(-content["objectness_logits"][-1])), scores, rtol=1e-5)


def test_interrupted_command_goes_on_with_what_is_missing(run, photos, tmp_path):
    config = composed("propose", f"run={run}", f"source={photos}", f"output={tmp_path / 'b'}", *QUICK, "chunk=2")
    whole = proposed(run, photos, tmp_path / "a", "chunk=2")
    trained = load_trained(run)
    seen: list[int] = []

    def stop(module: Any, images: Any, output: Any) -> None:
        seen.append(len(images[0]))
        if len(seen) == 3:
            raise KeyboardInterrupt

    trained.network.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        propose_with(trained, config)
    assert not (tmp_path / "b" / "proposals.json").exists()
    with pytest.raises(SettingError, match="of another command"):
        propose_with(trained, {**config, "limit": 3})
    propose_with(trained, config)
    assert seen == [2, 2, 2, 2, 1]  # two parts were kept, two of four were left
    assert (tmp_path / "b" / "proposals.json").read_bytes() == whole.files[0].read_bytes()


def test_images_of_other_sizes_in_a_batch_change_nothing(run, photos, tmp_path):
    """Proposals of one image at a time and of all at once, in any order of sizes: the same up to the last bits."""
    found = [
        results(proposed(run, photos, tmp_path / str(size), f"batch_size={size}", "precision=32").files[0].parent)
        for size in (1, 8)
    ]
    assert len(found[0]) == 7
    for name, alone in found[0].items():
        together = found[1][name]
        np.testing.assert_allclose([r["bbox"] for r in together], [r["bbox"] for r in alone], atol=2e-3)
        np.testing.assert_allclose([r["score"] for r in together], [r["score"] for r in alone], atol=2e-6)


def test_shards_together_are_the_whole(run, photos, tmp_path):
    """In any order, one of them lost: the command without a shard computes what is missing, and writes the files."""
    source = tmp_path / "photos"
    shutil.copytree(photos, source)
    (source / "1.png").write_text("not an image")
    whole = proposed(run, source, tmp_path / "whole", "chunk=2")
    output = tmp_path / "shards"
    for number in (3, 1):
        done = proposed(run, source, output, "chunk=2", f"shard={number}/3")
        assert done.files == []
    assert (done.images, len(done.unreadable)) == (3, 1)  # of images 0, 1 and 6
    assert not (output / "proposals.json").exists()
    parts = sorted((output / ".parts").glob("*.npz"))
    assert [path.name for path in parts] == ["000000.npz", "000002.npz", "000003.npz"]
    kept = parts[0].stat().st_mtime_ns
    with pytest.raises(SettingError, match="of another command"):
        proposed(run, source, output, "chunk=2", "shard=2/3", "limit=3")
    config = composed("propose", f"run={run}", f"source={source}", f"output={output}", *QUICK, "chunk=2")
    trained, seen = load_trained(run), []
    trained.network.register_forward_hook(lambda module, images, predictions: seen.append(parts[0].stat().st_mtime_ns))
    together = propose_with(trained, config)
    assert set(seen) == {kept}  # not computed again
    assert [path.name for path in together.files] == ["proposals.json", "unreadable.txt"]
    for path in together.files:
        assert path.read_bytes() == (whole.files[0].parent / path.name).read_bytes()
    with pytest.raises(SettingError, match="shard=4/3 is not possible: it must be a number and how many there are"):
        proposed(run, source, output, "shard=4/3")


HOLD = """
import sys
from pathlib import Path
from anchorlab.runs.files import FolderLock

assert FolderLock(Path(sys.argv[1])).acquire(shared=sys.argv[2] == "shared")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("held", "shard", "refused"),
    [("alone", None, True), ("alone", "1/2", True), ("shared", None, True), ("shared", "1/2", False)],
)
def test_a_folder_that_is_being_written_is_not_said_to_be_unfinished(held, shard, refused, run, photos, tmp_path):
    """By a process that runs: another command is told to wait, not to delete what that one needs."""
    (tmp_path / ".parts").mkdir()
    if refused:
        (tmp_path / ".parts" / "manifest.json").write_text("{}")
    more = [] if shard is None else [f"shard={shard}"]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".parts"), held],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        if refused:
            with pytest.raises(SettingError, match="is being written by another process: wait for its end"):
                proposed(run, photos / "0.png", tmp_path, *more)
        else:
            assert proposed(run, photos / "0.png", tmp_path, *more).images == 1


def test_pictures_have_names_of_their_own_and_nothing_stale_is_left(run, photos, tmp_path):
    source, output = tmp_path / "photos", tmp_path / "out"
    source.mkdir()
    image = Image.open(photos / "0.png")
    for suffix in ("png", "bmp", "tif"):
        image.save(source / f"rgb.{suffix}")
    (source / "broken.jpg").write_text("nothing")
    proposed(run, source, output, "pictures=4")
    assert sorted(path.name for path in (output / "figures").iterdir()) == ["rgb.bmp.png", "rgb.png.png", "rgb.tif.png"]
    assert (output / "unreadable.txt").exists()
    (source / "broken.jpg").unlink()
    proposed(run, source, output)
    assert not (output / "unreadable.txt").exists()


def test_names_of_pictures():
    assert picture_names(["a/b.png", "a_b.png", 7, "c.png"]) == ["a_b.png-1", "a_b.png-2", "7", "c"]
    assert picture_names(["Rgb.png", "rgb.bmp"]) == ["Rgb.png", "rgb.bmp"]


def test_images_are_as_large_as_the_run_allows_or_the_command(run, photos, tmp_path):
    """48 x 90 pixels are 0.0043 megapixels, 56 x 84 are 0.0047."""
    trained = load_trained(run)
    trained.config["data"]["megapixels"] = 0.0045
    files = [{"id": i, "file_name": f"{i}.png"} for i in range(2)]
    (tmp_path / "truth.json").write_text(json.dumps({"images": files, "annotations": [], "categories": []}))
    for source in (f"[{photos / '0.png'},{photos / '1.png'}]", tmp_path / "truth.json"):
        words = (f"run={run}", f"source={source}", f"folder={photos}", f"output={tmp_path / 'out'}", *QUICK)
        (line,) = propose_with(trained, composed("propose", *words)).unreadable
        assert "above megapixels=0.0045: raise it" in line
        assert propose_with(trained, composed("propose", *words, "megapixels=1")).unreadable == []


def test_unreadable_images_are_listed_and_end_with_code_1(run, photos, tmp_path):
    source = tmp_path / "photos"
    shutil.copytree(photos, source)
    (source / "1.png").write_bytes((photos / "1.png").read_bytes()[:500])
    (source / "2.png").write_text("not an image")
    (source / "list.txt").write_text("0.png\n1.png\n2.png\nmissing.png\n")
    command = [sys.executable, str(CONFIGS.with_name("propose.py")), f"run={run}", f"source={source / 'list.txt'}"]
    done = subprocess.run([*command, *QUICK], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip() == "error: 3 images could not be read: proposals/unreadable.txt"
    lines = (tmp_path / "proposals/unreadable.txt").read_text().splitlines()
    assert [name for line in lines for name in ("1.png", "2.png", "missing.png") if name in line.split(":")[0]] == [
        "1.png",
        "2.png",
        "missing.png",
    ]
    assert set(results(tmp_path / "proposals")) == {"0.png"}


def test_coco_s_json_keeps_its_ids_and_draws_what_was_missed(run, photos, tmp_path):
    images = [{"id": 7 * i, "file_name": f"{i}.png"} for i in range(3)]
    box = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [5, 5, 30, 20], "area": 600, "iscrowd": 0}
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"images": images, "annotations": [box], "categories": [{"id": 1, "name": "a"}]}))
    done = proposed(run, truth, tmp_path / "out", f"folder={photos}", "pictures=2", "top=5")
    assert set(results(tmp_path / "out")) == {0, 7, 14}
    assert [path.name for path in done.files[1:]] == ["0.png", "7.png"]
    plain = proposed(run, photos / "0.png", tmp_path / "plain", "pictures=1")
    assert all(Image.open(path).width > 400 for path in [*done.files[1:], plain.files[1]])


@pytest.mark.parametrize("kind", list(WRITERS))
def test_writing_holds_a_part_in_memory_not_all(kind, tmp_path):
    size = 20_000 if kind != "coco" else 2_000  # proposals of a part
    name, write = WRITERS[kind]

    def parts() -> Iterator[Part]:
        for i in range(30):
            boxes = np.full((size, 4), i, np.float32) + np.array([0, 0, 1, 1], np.float32)
            num = np.array([size // 2, size // 2])
            yield Part([2 * i, 2 * i + 1], np.ones((2, 2), np.int64), num, boxes, np.full(size, 0.5, np.float32))

    tracemalloc.start()
    write(parts, tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    of_a_part = size * 20 * (1 if kind != "coco" else 60)  # text and Python's objects are larger than float32
    assert peak < 8 * of_a_part
    assert (tmp_path / name).stat().st_size > 20 * size * 15
