"""Small sets of colour and thermal pairs in the official layouts, written by real encoders.

KAIST's and FLIR's images have their official 640 x 512 pixels. Every object is a rectangle that is
bright and warm on a dark, cold ground, so that pixels say where the boxes are. MFNet's pixels are
noise, for PNG keeps every one of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from picture_files import write_lines
from PIL import Image

SIZE = (640, 512)  # width and height
GROUND, OBJECT = (40, 60, 90), (220, 200, 180)
COLD, WARM = 30, 220


@dataclass(frozen=True)
class Planted:
    """One object: its box from left, top, width and height."""

    label: str
    box: tuple[int, int, int, int]
    occlusion: int = 0
    ignored: int = 0


def write_pair(rgb: Path, thermal: Path, things: list[Planted], size=SIZE) -> None:
    pixels = np.full((size[1], size[0], 3), GROUND, np.uint8)
    heat = np.full((size[1], size[0]), COLD, np.uint8)
    for thing in things:
        left, top, width, height = thing.box
        place = np.s_[max(top, 0) : top + height, max(left, 0) : left + width]
        pixels[place], heat[place] = OBJECT, WARM
    for path, image in ((rgb, pixels), (thermal, heat)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, "JPEG", quality=95)


# Two videos by day and two by night for training; in the first frame one of everything.
VIDEOS = {
    "set00/V000": 3, "set00/V001": 2, "set03/V000": 2, "set03/V001": 3, "set06/V000": 2,
    "set11/V001": 1,
}  # fmt: skip
FIRST = "set00/V000/I00019"
EVERYTHING = [
    Planted("person", (80, 200, 40, 96)),
    Planted("person", (160, 200, 40, 48)),  # below 55 pixels
    Planted("person", (240, 200, 40, 96), occlusion=1),
    Planted("person", (320, 200, 40, 96), occlusion=2),
    Planted("person", (400, 200, 40, 96), ignored=1),
    Planted("person", (-8, 200, 40, 96)),  # reaches over the edge
    Planted("people", (480, 200, 80, 96)),
    Planted("person?", (80, 320, 40, 96)),
    Planted("cyclist", (160, 320, 40, 96)),
    Planted("person?a", (240, 320, 40, 96)),
    Planted("person", (320, 320, 0, 96)),  # without area
]


def plant_kaist() -> dict[str, list[Planted]]:
    """Frame → its objects, in the lists' order; the last one of every video is empty."""
    frames: dict[str, list[Planted]] = {}
    for video, count in VIDEOS.items():
        for k in range(count):
            moving = Planted("person", (80 + 40 * k, 200, 40, 96))
            frames[f"{video}/I{20 * k + 19:05d}"] = [moving] if k + 1 < count else []
    return frames | {FIRST: EVERYTHING}


def write_kaist(root: Path) -> dict[str, list[Planted]]:
    frames = plant_kaist()
    for frame, things in frames.items():
        video, name = frame.rsplit("/", 1)
        folder = root / "images" / video
        write_pair(folder / "visible" / f"{name}.jpg", folder / "lwir" / f"{name}.jpg", things)
        rows = [
            f"{t.label} {' '.join(map(str, t.box))} {t.occlusion} 0 0 0 0 {t.ignored} 0"
            for t in things
        ]
        write_lines(root / "annotations" / f"{frame}.txt", ["% bbGt version=3", *rows])
    for name, train in (("train-all-20", True), ("test-all-20", False)):
        lines = [frame for frame in frames if (frame < "set06") == train]
        (root / "imageSets").mkdir(exist_ok=True)
        # with the line ends of the published lists
        (root / "imageSets" / f"{name}.txt").write_bytes("\r\n".join([*lines, ""]).encode())
    return frames


def write_kaist_json(root: Path, paired: bool) -> tuple[str, str]:
    """The same frames as COCO files for training and test. paired: in the form of FreqKD's release,
    else in the benchmark's, whose identifiers begin at 0."""
    names = ["person", "cyclist", "people", "person?", "person?a"]
    files = "train.json", "test.json"
    for file, train in zip(files, (True, False), strict=True):
        images, annotations = [], []
        for frame, things in plant_kaist().items():
            if (frame < "set06") != train:
                continue
            video, name = frame.rsplit("/", 1)
            entry = {"id": len(images), "width": SIZE[0], "height": SIZE[1]}
            if paired:
                entry["file_name"] = f"{video}/visible/{name}.jpg"
                entry["file_name2"] = f"{video}/lwir/{name}.jpg"
            else:
                entry["im_name"] = frame
            images.append(entry)
            for thing in things:
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": entry["id"],
                        "category_id": names.index(thing.label),
                        "bbox": list(thing.box),
                        "height": thing.box[3],
                        "occlusion": thing.occlusion,
                        "ignore": thing.ignored,
                    }
                )
        categories = [{"id": k, "name": name} for k, name in enumerate(names)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / file).write_text(json.dumps(content))
    return files


ROAD = {  # numbers in stretches of 200, in no order, as the published lists are
    "FLIR_00410": [Planted("car", (320, 240, 160, 80))],
    "FLIR_00002": [Planted("person", (80, 200, 40, 96)), Planted("bicycle", (240, 200, 80, 40))],
    "FLIR_00399": [Planted("dog", (80, 200, 40, 40)), Planted("person", (400, 160, 40, 96))],
    "FLIR_00205": [Planted("person", (240, 200, 40, 96), ignored=1)],
    "FLIR_00150": [],
    "FLIR_00801": [Planted("car", (80, 240, 160, 80)), Planted("bicycle", (400, 160, 40, 80))],
    "FLIR_08863": [Planted("car", (600, 240, 80, 80))],  # reaches over the edge
    "FLIR_09001": [Planted("person", (80, 200, 40, 96))],
}
VOC = """<annotation>
  <folder>{folder}</folder>
  <filename>{stem}.jpeg</filename>
  <size><width>640</width><height>512</height><depth>1</depth></size>
  {objects}
</annotation>
"""
VOC_OBJECT = """<object>
    <name>{}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>{}</difficult>
    <bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>
  </object>"""


def write_flir(root: Path) -> dict[str, list[Planted]]:
    base = root / "align"
    for stem, things in ROAD.items():
        files = (base / "JPEGImages" / f"{stem}_{end}" for end in ("RGB.jpg", "PreviewData.jpeg"))
        write_pair(*files, things)
        objects = "\n  ".join(
            VOC_OBJECT.format(t.label, t.ignored, *corners(t.box)) for t in things
        )
        folder = "training" if stem < "FLIR_08863" else "validation"
        path = base / "Annotations" / f"{stem}_PreviewData.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(VOC.format(folder=folder, stem=stem, objects=objects))
    for name, train in (("align_train", True), ("align_validation", False)):
        lines = [f"{stem}_PreviewData" for stem in ROAD if (stem < "FLIR_08863") == train]
        write_lines(base / f"{name}.txt", lines)
    return ROAD


def write_flir_json(root: Path) -> tuple[str, str]:
    """FLIR's own annotations of the same images and one more; difficult objects are crowds."""
    names = {1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 18: "dog"}
    files = "train/thermal_annotations.json", "val/thermal_annotations.json"
    for file, train in zip(files, (True, False), strict=True):
        stems = ["FLIR_00001", *(stem for stem in ROAD if (stem < "FLIR_08863") == train)]
        images = [
            {"id": k, "file_name": f"thermal_8_bit/{stem}.jpeg", "width": 640, "height": 512}
            for k, stem in enumerate(stems)
        ]
        annotations = [
            {
                "image_id": k,
                "category_id": next(i for i, name in names.items() if name == thing.label),
                "bbox": list(thing.box),
                "iscrowd": thing.ignored,
            }
            for k, stem in enumerate(stems)
            for thing in ROAD.get(stem, [])
        ]
        categories = [{"id": k, "name": name} for k, name in names.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = root / "align" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return files


def corners(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, width, height = box
    return left, top, left + width, top + height


STREETS = {"train": ["00001D", "00004N", "00007D"], "val": ["00002D"], "test": ["00003N", "00009D"]}
STREET = (64, 48)  # width and height


def write_mfnet(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Image (48, 64, 4) and mask (48, 64) of every name; of a quarter of the pixels the fourth
    channel is 0, which a reader could take for transparent."""
    base, rng = root / "ir_seg_dataset", np.random.default_rng(0)
    made = {}
    for kind in ("images", "labels"):
        (base / kind).mkdir(parents=True)
    for name in chain(*STREETS.values()):
        pixels = rng.integers(0, 256, (STREET[1], STREET[0], 4), np.uint8)
        pixels[..., 3] *= rng.random(pixels.shape[:2]) < 0.75
        mask = rng.integers(0, 9, pixels.shape[:2], np.uint8)
        Image.fromarray(pixels).save(base / "images" / f"{name}.png")
        Image.fromarray(mask).save(base / "labels" / f"{name}.png")
        made[name] = pixels, mask
    for word, names in STREETS.items():
        copies = [f"{name}_flip" for name in names] if word == "train" else []
        write_lines(base / f"{word}.txt", sorted([*names, *copies]))
    return made
