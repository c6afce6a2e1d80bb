"""Layouts as tools export them: recognised without a setting, boxes on their objects, and said in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from anchorlab.data.auto import AutoReader
from anchorlab.data.module import DataModule
from anchorlab.data.sample import DataError
from tests.data.drawing import check_red, coco, draw, voc, write, write_coco, yolo

NAMES = [f"{n}.jpg" for n in range(4)]
COPIES = [f"p{n // 2}_jpg.rf.{n:032x}.jpg" for n in range(4)]


def roboflow_coco(root: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        write_coco(root / split / "_annotations.coco.json", root / split, COPIES, 4 * number)
    write(root / "README.dataset.txt", "provided by a person")


def roboflow_voc(root: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        for i, name in enumerate(COPIES):
            boxes = draw(root / split / name, 4 * number + i)
            write(root / split / f"{name[:-4]}.xml", voc(name, boxes))


def roboflow_yolo(root: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        for i, name in enumerate(COPIES):
            boxes = draw(root / split / "images" / name, 4 * number + i)
            write(root / split / "labels" / f"{name[:-4]}.txt", yolo(boxes).rstrip())
    splits = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    write(root / "data.yaml", splits + "nc: 1\nnames: ['thing']\nroboflow:\n  project: p\n")


def cvat_coco(root: Path) -> None:
    write_coco(root / "annotations/instances_default.json", root / "images/default", NAMES)


def cvat_project(root: Path) -> None:
    for number, split in enumerate(("Train", "Validation")):
        write_coco(root / f"annotations/instances_{split}.json", root / "images" / split, NAMES, 4 * number)


def cvat_yolo(root: Path) -> None:
    for i, name in enumerate(NAMES):
        boxes = draw(root / "obj_train_data" / name, i)
        write(root / "obj_train_data" / f"{i}.txt", yolo(boxes))
    write(root / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in NAMES))
    write(root / "obj.names", "thing\n")
    write(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n")


def cvat_ultralytics(root: Path) -> None:
    yolo_folder(root, "images/Train", "labels/Train")
    write(root / "Train.txt", "".join(f"data/images/Train/{name}\n" for name in NAMES))
    write(root / "data.yaml", "Train: Train.txt\nnames:\n  0: thing\npath: .\n")


def label_studio_coco(root: Path) -> None:
    write_coco(root / "result.json", root / "images", NAMES, called="images\\{}")


def label_studio_media(root: Path) -> None:
    write_coco(root / "result.json", root / "images", NAMES, called="..\\..\\label-studio\\media\\upload\\4\\{}")


def label_studio_yolo(root: Path) -> None:
    yolo_folder(root, "images", "labels")
    write(root / "notes.json", json.dumps({"categories": [{"id": 0, "name": "thing"}], "info": {}}))


def labelme_to_coco(root: Path) -> None:
    write_coco(root / "annotations.json", root / "JPEGImages", NAMES, called="JPEGImages/{}")


def label_img_voc(root: Path) -> None:
    for i in range(4):
        write(root / f"IMG_{i}.xml", voc(f"IMG_{i}.JPG", draw(root / f"IMG_{i}.JPG", i)).replace(">", ">\r\n"))


def label_img_yolo(root: Path) -> None:
    yolo_folder(root, ".", ".")
    write(root / "classes.txt", "thing\n")


def fiftyone_coco(root: Path) -> None:
    write_coco(root / "labels.json", root / "data", NAMES)


def fiftyone_yolo(root: Path) -> None:
    yolo_folder(root, "images/train", "labels/train")
    yolo_folder(root, "images/val", "labels/val", first=4)
    yaml = "names:\n  0: thing\npath: /somewhere/else\ntrain: ./images/train/\nval: ./images/val/\n"
    write(root / "dataset.yaml", yaml)


def fiftyone_voc(root: Path) -> None:
    voc_folder(root, "data", "labels")


def kaggle_voc(root: Path) -> None:
    voc_folder(root, "images", "annotations")
    write(root / "labels.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n0.jpg,80,60,thing,1,1,2,2\n")


def small_public_voc(root: Path) -> None:
    voc_folder(root, "imgs", "annots")


def published_coco(root: Path) -> None:
    for number, split in enumerate(("train", "val")):
        write_coco(root / f"annotations/instances_{split}2017.json", root / f"{split}2017", NAMES, 4 * number)
        write(root / f"annotations/captions_{split}2017.json", json.dumps({**coco([]), "images": [{"id": 1}]}))


def coco_2014(root: Path) -> None:
    for number, split in enumerate(("train", "val")):
        write_coco(root / f"annotations/instances_{split}2014.json", root / f"images/{split}2014", NAMES, 4 * number)


def minitrain(root: Path) -> None:
    write_coco(root / "annotations/instances_minitrain2017.json", root / "train2017", NAMES)
    write_coco(root / "annotations/instances_val2017.json", root / "val2017", NAMES, 4)


def lvis(root: Path) -> None:
    for number, split in enumerate(("train", "val")):
        names = [f"{n:012d}.jpg" for n in range(4 * number, 4 * number + 4)]
        file = root / f"lvis_v1_{split}.json"
        write_coco(file, root / "train2017", names, 4 * number)
        content = json.loads(file.read_text())
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
        for annotation in content["annotations"]:
            del annotation["iscrowd"]
        write(file, json.dumps(content))


def objects365(root: Path) -> None:
    for number, split in enumerate(("train", "val")):
        folder = root / split / "patch0"
        names = [f"objects365_v1_{4 * number + n:08d}.jpg" for n in range(4)]
        write_coco(root / f"zhiyuan_objv2_{split}.json", folder, names, 4 * number, "images/v1/patch0/{}")


def coco128(root: Path) -> None:
    yolo_folder(root, "images/train2017", "labels/train2017")
    yaml = "path: ../datasets/coco128\ntrain: images/train2017\nval: images/train2017\nnames:\n  0: thing\n"
    write(root / "coco128.yaml", yaml)


def voc_2007(root: Path) -> None:
    voc_folder(root / "VOCdevkit/VOC2007", "JPEGImages", "Annotations")
    for name, stems in (("train", "012"), ("val", "3"), ("trainval", "0123"), ("thing_train", "01")):
        write(root / f"VOCdevkit/VOC2007/ImageSets/Main/{name}.txt", "\n".join(stems))


def paddle(root: Path) -> None:
    voc_folder(root, "JPEGImages", "Annotations")
    write(root / "train.txt", "".join(f"JPEGImages/{n}.jpg Annotations/{n}.xml\n" for n in range(4)))
    write(root / "label_list.txt", "thing\n")


def yolo_folder(root: Path, images: str, labels: str, first: int = 0) -> None:
    for i, name in enumerate(NAMES):
        write(root / labels / f"{i}.txt", yolo(draw(root / images / name, first + i)))


def voc_folder(root: Path, images: str, annotations: str) -> None:
    for i, name in enumerate(NAMES):
        write(root / annotations / f"{i}.xml", voc(name, draw(root / images / name, i)))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (roboflow_coco, "Roboflow COCO, train 4, valid -> val 4, test 4, 1 class"),
        (roboflow_voc, "Roboflow VOC, train 4, valid -> val 4, test 4, 1 class"),
        (roboflow_yolo, "Roboflow YOLO, train 4, valid -> val 4, test 4, 1 class"),
        (cvat_coco, "CVAT COCO, train 4, 1 class"),
        (cvat_project, "COCO, Train -> train 4, Validation -> val 4, 1 class"),
        (cvat_yolo, "CVAT YOLO, train 4, 1 class"),
        (cvat_ultralytics, "Ultralytics YOLO, Train -> train 4, 1 class"),
        (label_studio_coco, "Label Studio COCO, train 4, 1 class"),
        (label_studio_media, "Label Studio COCO, train 4, 1 class"),
        (label_studio_yolo, "Label Studio YOLO, train 4, 1 class"),
        (labelme_to_coco, "COCO, train 4, 1 class"),
        (label_img_voc, "VOC annotations, train 4, 1 class"),
        (label_img_yolo, "YOLO, train 4, 1 class"),
        (fiftyone_coco, "FiftyOne COCO, train 4, 1 class"),
        (fiftyone_yolo, "Ultralytics YOLO, train 4, val 4, 1 class"),
        (fiftyone_voc, "VOC annotations, train 4, 1 class"),
        (kaggle_voc, "VOC annotations, train 4, 1 class"),
        (small_public_voc, "VOC annotations, train 4, 1 class"),
        (published_coco, "COCO, train2017 -> train 4, val2017 -> val 4, 1 class"),
        (coco_2014, "COCO, train2014 -> train 4, val2014 -> val 4, 1 class"),
        (minitrain, "COCO, minitrain2017 -> train 4, val2017 -> val 4, 1 class"),
        (lvis, "LVIS, train 4, val 4, 1 class"),
        (objects365, "Objects365, train 4, val 4, 1 class"),
        (coco128, "Ultralytics YOLO, train2017 -> train 4, 1 class"),
        (voc_2007, "VOC, train 3, val 1, 1 class"),
        (paddle, "PaddleDetection VOC, train 4, 1 class"),
    ],
)
def test_a_layout_loads_as_it_is(tmp_path: Path, make: Callable[[Path], None], line: str) -> None:
    make(tmp_path)
    reader = AutoReader(root=tmp_path)
    seen: set[Path] = set()
    for split in reader.splits():
        records, problems = reader.read(split)
        assert problems == []
        check_red(records)
        assert seen.isdisjoint(record.path for record in records)
        seen.update(record.path for record in records)
    assert len(seen) == len(reader.tree.images)
    assert reader.taken()[0] == line
    assert reader.categories == ["thing"]


def test_two_readings_are_refused_with_the_override_for_each(tmp_path: Path) -> None:
    yolo_folder(tmp_path, "images", "labels")
    write_coco(tmp_path / "instances.json", tmp_path / "images", NAMES)
    with pytest.raises(DataError, match=r"data\.reader\.format=coco.* or .*data\.reader\.format=yolo") as caught:
        AutoReader(root=tmp_path).splits()
    assert len(str(caught.value).splitlines()) == 1
    for format in ("coco", "yolo"):
        check_red(AutoReader(format, root=tmp_path).read("train")[0])


def test_two_files_of_one_format_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_coco(tmp_path / name, tmp_path / "images", NAMES)
    with pytest.raises(DataError, match=r"2 COCO files to train on: .*a\.json or .*b\.json"):
        AutoReader(root=tmp_path).splits()
    check_red(AutoReader(root=tmp_path / "b.json").read("train")[0])


@pytest.mark.parametrize("name", ["annotations/instances_val2017.json", "annotations/instances_train2017.json"])
def test_a_file_that_is_named_is_all_there_is(tmp_path: Path, name: str) -> None:
    published_coco(tmp_path)
    reader = AutoReader(root=tmp_path / name)
    records, problems = reader.read("train")
    assert (reader.splits(), problems) == (["train"], [])
    check_red(records)
    assert "found and not used: images: 4" in reader.taken()


def test_what_is_found_and_not_used_is_counted(tmp_path: Path) -> None:
    yolo_folder(tmp_path, "images/train", "labels/train")
    draw(tmp_path / "images/spare/9.jpg", 9)
    write(tmp_path / "labels/train/gone.txt", "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "images/train/._0.jpg", "a Mac's")
    reader = AutoReader(root=tmp_path)
    check_red(reader.read("train")[0])
    assert reader.taken()[1] == "found and not used: labels without an image: 1, images: 1"


def test_a_folder_without_annotations_is_one_sentence(tmp_path: Path) -> None:
    draw(tmp_path / "photos/0.jpg", 0)
    with pytest.raises(DataError, match="no annotations that are known"):
        AutoReader(root=tmp_path).splits()
    with pytest.raises(DataError, match="does not exist"):
        AutoReader(root=tmp_path / "nowhere").splits()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        AutoReader(root=tmp_path / "empty").splits()


def test_a_format_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.reader\.format='pascal' must be one of coco, csv"):
        AutoReader("pascal", root=tmp_path)


YAML_FORMS = [
    ("path: {root}\ntrain: images/a\nval: images/b\nnames: [thing]\n", 4, 4),
    ("train: [images/a, images/b]\nnames: {{0: thing}}\n", 8, None),
    ("train: images/a\nval: list.txt\nnc: 1\nnames: ['thing']\n", 4, 2),
    ("train: /home/somebody/project/images/a\nvalid: C:\\work\\images\\b\nnames: [thing]\n", 4, 4),
    ("path: ..\ntrain: {name}/images/a\nval: {name}/images/b\nnames: {{'0': thing}}\n", 4, 4),
]


@pytest.mark.parametrize(("yaml", "train", "val"), YAML_FORMS)
def test_a_data_yaml_is_followed(tmp_path: Path, yaml: str, train: int, val: int | None) -> None:
    yolo_folder(tmp_path, "images/a", "labels/a")
    yolo_folder(tmp_path, "images/b", "labels/b", first=4)
    write(tmp_path / "list.txt", "./images/b/0.jpg\nimages/b/1.jpg\n")
    write(tmp_path / "data.yaml", yaml.format(root=tmp_path, name=tmp_path.name))
    for root in (tmp_path, tmp_path / "data.yaml"):
        reader = AutoReader(root=root)
        counts = {split: len(reader.read(split)[0]) for split in reader.splits()}
        assert counts == {"train": train} | ({} if val is None else {"val": val})
        assert reader.categories == ["thing"]


def test_training_images_named_again_for_validation_are_said(tmp_path: Path) -> None:
    coco128(tmp_path)
    remark = "val: coco128.yaml names the training images again, which cannot be scored apart"
    assert remark in AutoReader(root=tmp_path).taken()


def test_a_data_yaml_of_another_place_is_said(tmp_path: Path) -> None:
    yolo_folder(tmp_path, "images/train", "labels/train")
    write(tmp_path / "data.yaml", "train: elsewhere\nnames: [thing]\n")
    reader = AutoReader(root=tmp_path)
    check_red(reader.read("train")[0])
    assert any("data.yaml names elsewhere for training, where no image is" in line for line in reader.taken())


def test_what_was_taken_is_printed_once_with_the_division(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_img_yolo(tmp_path)
    data = DataModule(AutoReader, str(tmp_path), workers=0, val_fraction=0.25)
    data.setup()
    data.setup()
    assert capsys.readouterr().out.splitlines() == [
        "data: YOLO, train 4, 1 class",
        "data: val: 25% of train by a seeded rule: there is no validation split",
    ]


def test_augmented_copies_of_an_image_stay_on_one_side(tmp_path: Path) -> None:
    names = [f"p{n // 3}_jpg.rf.{n:032x}.jpg" for n in range(12)]
    write_coco(tmp_path / "train/_annotations.coco.json", tmp_path / "train", names)
    data = DataModule(AutoReader, str(tmp_path), workers=0, val_fraction=0.3)
    data.setup()
    sides = [
        {record.path.name.partition(".rf.")[0] for record in part} for part in (data.train_records, data.val_records)
    ]
    assert sides[0].isdisjoint(sides[1])
    assert len(data.train_records) + len(data.val_records) == 12


@pytest.mark.parametrize("name", ["trainval", "minitrain2017", "train_set"])
def test_other_words_for_a_split(tmp_path: Path, name: str) -> None:
    write_coco(tmp_path / f"annotations/{name}.json", tmp_path / "images", NAMES)
    assert AutoReader(root=tmp_path).splits() == ["train"]
    assert AutoReader(train=name, val=None, root=tmp_path).splits() == ["train"]


def test_a_split_that_is_not_wanted_is_left_out(tmp_path: Path) -> None:
    published_coco(tmp_path)
    reader = AutoReader(val=None, root=tmp_path)
    assert reader.splits() == ["train"]
