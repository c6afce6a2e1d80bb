"""Formats beyond COCO, VOC and YOLO: found without a setting, boxes on their objects, ignored regions ignored."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from anchorlab.data.auto import AutoReader
from anchorlab.data.sample import Record
from tests.data.drawing import HEIGHT, WIDTH, Box, check_red, draw, write


def read(root: Path, layout: str, split: str = "train") -> tuple[list[Record], AutoReader]:
    reader = AutoReader(root=root)
    records, problems = reader.read(split)
    assert [str(problem) for problem in problems if not problem.harmless] == []
    assert reader.found.layout == layout
    return records, reader


def corners(box: Box) -> tuple[int, int, int, int]:
    x, y, w, h = box
    return x, y, x + w, y + h


def test_kitti(tmp_path: Path) -> None:
    for i in range(3):
        boxes = draw(tmp_path / f"training/image_2/{i:06d}.png", i)
        rows = [f"Car 0.00 0 -1.58 {' '.join(f'{v:.2f}' for v in corners(b))} 1.5 1.6 3.7 1 2 3 -1.6\n" for b in boxes]
        region = "DontCare -1 -1 -10 0.00 0.00 4.00 4.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
        write(tmp_path / f"training/label_2/{i:06d}.txt", "".join(rows) + (region if i == 2 else ""))
    draw(tmp_path / "testing/image_2/000000.png", 9)
    records, reader = read(tmp_path, "KITTI")
    check_red(records[:2])
    assert records[2].ignore.tolist() == [False, False, True]
    assert reader.categories == ["Car", "DontCare"]
    assert reader.splits() == ["train"]  # test images have no labels
    assert reader.taken()[1] == "found and not used: images: 1"


def test_visdrone(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        for i in range(2):
            boxes = draw(tmp_path / f"VisDrone2019-DET-{split}/images/{i}.jpg", 2 * number + i)
            rows = [f"{x},{y},{w},{h},1,4,0,0\n" for x, y, w, h in boxes] + ["0,0,3,3,0,0,0,0,\n"]
            write(tmp_path / f"VisDrone2019-DET-{split}/annotations/{i}.txt", "".join(rows))
    for split in ("train", "val"):
        records, reader = read(tmp_path, "VisDrone", split)
        assert [record.ignore.tolist() for record in records] == [[False, False, True]] * 2
        check_red([_without_ignored(record) for record in records])
        assert reader.categories == ["car", "ignored regions"]


def test_dota(tmp_path: Path) -> None:
    for i in range(3):
        rows = ["imagesource:GoogleEarth\n", "gsd:0.15\n"]
        for n, (x1, y1, x2, y2) in enumerate(map(corners, draw(tmp_path / f"images/P{i}.png", i))):
            rows.append(f"{x1} {y1} {x2} {y1} {x2} {y2} {x1} {y2} small-vehicle {n}\n")
        write(tmp_path / f"labelTxt/P{i}.txt", "".join(rows))
    records, reader = read(tmp_path, "DOTA")
    check_red(records)
    assert records[0].ignore.tolist() == [False, True]
    assert reader.remarks == ["oriented boxes count by the upright boxes around them"]


def test_crowdhuman(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        lines = []
        for i in range(2):
            name = f"2732{number},c9db{i}"
            boxes = draw(tmp_path / f"Images/{name}.jpg", 2 * number + i)
            rows = [{"tag": "person", "fbox": list(box), "vbox": [0, 0, 1, 1], "extra": {}} for box in boxes]
            rows.append({"tag": "mask", "fbox": [-5, 2, 9, 9], "extra": {"ignore": 1}})
            lines.append(json.dumps({"ID": name, "gtboxes": rows}))
        write(tmp_path / f"annotation_{split}.odgt", "\n".join(lines) + "\n")
    for split in ("train", "val"):
        records, reader = read(tmp_path, "CrowdHuman", split)
        check_red([_without_ignored(record) for record in records])
        assert records[0].boxes[2].tolist() == [0, 2, 4, 11]  # clipped at the border
        assert reader.categories == ["person", "mask"]


TABLES = {
    "keras": (None, "{path},{x1},{y1},{x2},{y2},thing"),
    "head": ("image_path,xmin,ymin,xmax,ymax,label", "{path},{x1},{y1},{x2},{y2},thing"),
    "semicolons": ("Image;X1;Y1;X2;Y2;Class", "{name};{x1};{y1};{x2};{y2};thing"),
    "tensorflow": (
        "filename,width,height,class,xmin,ymin,xmax,ymax",
        "{name},80,60,thing,{x1},{y1},{x2},{y2}",
    ),
    "sides": ("image_name,x,y,width,height,class", "{name},{x1},{y1},{w},{h},thing"),
    "brackets": ("image_id,width,height,bbox,source,label", '{stem},80,60,"[{x1}, {y1}, {w}, {h}]",s,thing'),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables(tmp_path: Path, kind: str) -> None:
    head, row = TABLES[kind]
    lines = [] if head is None else [head]
    for i in range(3):
        for box in draw(tmp_path / f"pictures/{i}.jpg", i):
            x1, y1, x2, y2 = corners(box)
            path = f"/home/somebody/pictures/{i}.jpg"
            fields = {"path": path, "name": f"{i}.jpg", "stem": f"{i}", "w": box[2], "h": box[3]}
            lines.append(row.format(**fields, x1=x1, y1=y1, x2=x2, y2=y2))
    write(tmp_path / "boxes.csv", "\r\n".join([*lines, lines[-1]]), "utf-8-sig")
    records, reader = read(tmp_path, "CSV")
    check_red(records)
    assert reader.categories == ["thing"]


def test_a_row_without_numbers_is_an_image_without_boxes(tmp_path: Path) -> None:
    (x1, y1, x2, y2), _ = map(corners, draw(tmp_path / "0.jpg", 0))
    draw(tmp_path / "1.jpg", 1)
    write(tmp_path / "boxes.csv", f"0.jpg,{x1},{y1},{x2},{y2},thing\n1.jpg,,,,,\n")
    records, _ = read(tmp_path, "CSV")
    assert [len(record.boxes) for record in records] == [1, 0]


def test_open_images(tmp_path: Path) -> None:
    lines = [
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    ]
    for i in range(3):
        for n, box in enumerate(draw(tmp_path / f"train/{i:016x}.jpg", i)):
            x1, y1, x2, y2 = corners(box)
            shares = f"{x1 / WIDTH:.6f},{x2 / WIDTH:.6f},{y1 / HEIGHT:.6f},{y2 / HEIGHT:.6f}"
            lines.append(f"{i:016x},xclick,/m/01g317,1,{shares},0,0,{n},0,0")
    lines.append("ffff000000000000,xclick,/m/01g317,1,0.1,0.2,0.1,0.2,0,0,0,0,0")  # of the millions not on this disk
    write(tmp_path / "oidv6-train-annotations-bbox.csv", "\n".join(lines))
    write(tmp_path / "oidv7-class-descriptions-boxable.csv", "/m/01g317,Person\n/m/0k4j,Car\n")
    records, reader = read(tmp_path, "Open Images")
    check_red(records)
    assert records[0].ignore.tolist() == [False, True]  # a group is a crowd
    assert reader.categories == ["Person"]
    assert reader.remarks == ["oidv6-train-annotations-bbox.csv is about 1 more images that are not here"]


@pytest.mark.parametrize("folder", ["", "labels/"])
def test_labelme(tmp_path: Path, folder: str) -> None:
    for i in range(3):
        first, second = map(corners, draw(tmp_path / f"{folder and 'images/'}{i}.jpg", i))
        x1, y1, x2, y2 = second
        polygon = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
        shapes = [
            {"label": "thing", "points": [list(first[2:]), list(first[:2])], "shape_type": "rectangle"},
            {"label": "thing", "points": polygon, "shape_type": "polygon"},
            {"label": "thing", "points": [[1, 1]], "shape_type": "point"},
        ]
        content = {"shapes": shapes, "imagePath": f"..\\images\\{i}.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH}
        write(tmp_path / f"{folder}{i}.json", json.dumps(content))
    records, _ = read(tmp_path, "labelme")
    check_red(records)


@pytest.mark.parametrize("content", ['[{"shapes": [], "imagePath": ""}]', '{"shapes": "none", "imagePath": "1.jpg"}'])
def test_a_labelme_file_without_shapes_is_a_problem(tmp_path: Path, content: str) -> None:
    for i in range(2):
        draw(tmp_path / f"{i}.jpg", i)
        write(tmp_path / f"{i}.json", json.dumps({"shapes": [], "imagePath": f"{i}.jpg"}) if i else content)
    _, problems = AutoReader(root=tmp_path).read("train")
    assert [str(problem) for problem in problems] == [
        f"{tmp_path}/0.json: image 0: unreadable annotation: 'no JSON object with a list of shapes'"
    ]


@pytest.mark.parametrize("project", [False, True])
def test_via(tmp_path: Path, project: bool) -> None:
    for number, split in enumerate(("train", "val")):
        files = {}
        for i in range(2):
            regions = list(map(_region, draw(tmp_path / split / f"{i}.jpg", 2 * number + i), (False, True)))
            listed = regions if i else {str(n): region for n, region in enumerate(regions)}  # as version 1 wrote it
            files[f"{i}.jpg1234"] = {"filename": f"{i}.jpg", "size": 1234, "regions": listed, "file_attributes": {}}
        content = {"_via_settings": {}, "_via_img_metadata": files} if project else files
        write(tmp_path / split / "via_region_data.json", json.dumps(content))
    for split in ("train", "val"):
        records, reader = read(tmp_path, "VIA", split)
        check_red(records)
        assert reader.categories == ["thing"]


def _region(box: Box, polygon: bool) -> dict:
    x1, y1, x2, y2 = corners(box)
    if polygon:
        shape = {"name": "polygon", "all_points_x": [x1, x2, x2, x1], "all_points_y": [y1, y1, y2, y2]}
        return {"shape_attributes": shape, "region_attributes": {"kind": {"other": False, "thing": True}}}
    shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    return {"shape_attributes": shape, "region_attributes": {"kind": "thing"}}


def _without_ignored(record: Record) -> Record:
    kept = ~record.ignore
    return replace(record, boxes=record.boxes[kept], ignore=record.ignore[kept], category=record.category[kept])
