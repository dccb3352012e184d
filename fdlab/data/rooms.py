"""The embedded data set `rooms`: small indoor scenes seen by a colour, a depth and a heat camera.

Every event is a room of its own, furnished at random (`fdlab.data.interiors`) and drawn by ray
casting (`fdlab.data.render`); then each of three aligned sensors adds its own noise. With it come
a class for every pixel and a box around every object.

Images are made in worker processes started by `spawn`: a script that calls `build` with two or
more workers must do so under `if __name__ == "__main__":`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, special

from fdlab.core.errors import UserError
from fdlab.data import interiors, render
from fdlab.data.dataset import IGNORED, SPLITS, Built, Dataset, Modality
from fdlab.data.drawn import choose_events, draw_generator, split_evenly, work_all
from fdlab.data.interiors import CEILING, CLASSES, FLOOR, WALL

EVENTS = 1000
HELD_OUT = (150, 250)  # events of the validation and test splits; the rest is for training
SMALLEST_LIMIT = 42  # below this a kind of scene may be missing from a split
SIDES = (16, 256)

# What a generator's numbers are for. None is 0: numpy seeds [s, e] and [s, e, 0] alike.
_SPLIT, _LAYOUT, _LOOKS, _LIGHT, _RGB, _DEPTH, _THERMAL = range(1, 8)
_WHOLE_SET = EVENTS  # stands for the event in draws that concern the whole set

EXPOSURE = (0.06, 0.4)  # mean of the linear picture, white being 1
CAST = 0.15  # standard deviation of the white balance's error, log of a channel's gain
MIDDLE = 0.2  # linear level at which `rgb_noise` is stated

NEAREST, FURTHEST = 0.4, 8.0  # metres between which the depth camera reads
EDGE = 0.08  # of the depth: a step that the depth camera takes for an edge
MILLIMETRES = 1000
# Chances that a depth pixel is lost: on the far side of an edge, where all light is mirrored away,
# where none comes back, and anywhere.
LOST_AT_EDGE, LOST_BY_GLOSS, LOST_IN_DARK, LOST_ANYWHERE = 0.45, 0.6, 0.5, 0.01
FAINT = 0.012  # light returned, of a white surface's at 1 m, below which readings get lost
PATCHES = 0.9  # correlation of what decides on holes with its smooth part

COLDEST, SPAN = 0.0, 45.0  # °C of the heat camera's 0, and from there to its 255
AIR = (18.0, 25.0)  # °C in the room
CLIMB = 0.7  # kelvin per metre of height
BLUR = 1.2 / 64  # standard deviation of the heat camera's blur, of the picture's side

BOXES = 24  # rows of `boxes`; the largest objects are kept where there are more
SMALLEST_BOX = 10 / 64**2  # visible area of an object that gets a box, of the picture

# A colour per class, sRGB. Fourteen cannot all be told apart by everyone: hues are near those of
# Okabe and Ito's colour-blind-safe eight, and what shares a hue differs in lightness.
PALETTE = {
    "wall": (190, 190, 182),
    "floor": (160, 125, 95),
    "ceiling": (245, 245, 250),
    "window": (100, 195, 240),
    "door": (80, 40, 10),
    "picture": (204, 121, 167),
    "table": (230, 159, 0),
    "chair": (0, 170, 125),
    "bed": (0, 114, 178),
    "sofa": (60, 20, 110),
    "cabinet": (213, 94, 0),
    "lamp": (240, 228, 66),
    "person": (225, 25, 60),
    "other": (84, 92, 104),
}

NOTE = (
    "Everything is synthetic: rooms, furniture, people and clutter are random compounds of boxes, "
    "cylinders and ellipsoids, drawn by ray casting; no photograph, scan or annotation is used. "
    "rgb: colours, textures, lights and shadows, a random exposure and white balance, noise. "
    "depth: millimetres along the optical axis with noise and steps that grow with the square of "
    "the distance, and holes (0) at edges and on surfaces that are dark, glossy, oblique, too near "
    "or too far; a surface's infrared reflectance is drawn apart from its colour. thermal: "
    "temperatures of people, lamps, radiators, screens and windows, blurred. The three share the "
    "room, that is geometry, objects and view; a glowing lamp is lit in rgb and hot in thermal, "
    "and a window is glossy to depth and cold to thermal. Given the room their noises are "
    "independent. Every event has a room of its own, so none recurs between the splits."
)


@dataclass(frozen=True)
class RoomsConfig:
    """How `rooms` is made.

    seed: sets everything random. limit: number of events to keep, 42 to 1000, stratified by split
    and kind of scene; 0 keeps all. side: of the pictures in pixels, 16 to 256. rgb_noise: standard
    deviation of a mid-grey pixel's noise at the brightest exposure, black to white being 1; darker
    exposures have more. depth_noise: times the depth camera's noise. holes: times its holes'
    chances. thermal_noise: standard deviation of a heat pixel's noise in kelvin. disguise: part of
    the materials that repeat another one of the room, whatever the class. dark: part of the rooms
    that have next to no light but their lamps.
    """

    seed: int = 0
    limit: int = 0
    side: int = 64
    rgb_noise: float = 0.02
    depth_noise: float = 3.0
    holes: float = 1.0
    thermal_noise: float = 0.4
    disguise: float = 0.15
    dark: float = 0.2

    def __post_init__(self):
        limit = self.limit or EVENTS
        low, high = SIDES
        for name, is_fine, expected in (
            ("seed", self.seed >= 0, "0 or more"),
            ("limit", SMALLEST_LIMIT <= limit <= EVENTS, f"{SMALLEST_LIMIT} to {EVENTS}"),
            ("side", low <= self.side <= high, f"{low} to {high}"),
            ("rgb_noise", 0 <= self.rgb_noise <= 1, "0 to 1"),
            ("depth_noise", 0 <= self.depth_noise <= 100, "0 to 100"),
            ("holes", 0 <= self.holes <= 10, "0 to 10"),
            ("thermal_noise", 0 <= self.thermal_noise <= 20, "0 to 20"),
            ("disguise", 0 <= self.disguise <= 1, "0 to 1"),
            ("dark", 0 <= self.dark <= 1, "0 to 1"),
        ):
            if not is_fine:
                raise UserError(f"{name} is {getattr(self, name)}: expected {expected}")


@dataclass(frozen=True)
class Shot:
    """One event: its pictures (H, W, …), its mask and boxes, and what stands in the room."""

    rgb: np.ndarray
    depth: np.ndarray
    thermal: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    room: str
    camera: str
    objects: str


def build(
    config: RoomsConfig,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Built:
    """Make the data set; `progress` is told the number of events done and to do.

    S is the side. rgb: (N, 3, S, S) uint8. depth: (N, 1, S, S) uint16 in millimetres, 0 where
    there is no reading. thermal: (N, 1, S, S) uint8, 0 being 0 °C and 255 being 45 °C. mask:
    (N, S, S) uint8, 255 where the pixel's rays meet two classes. boxes: (N, 24, 5) float32, class
    and x0, y0, x1, y1 in pixels, x1 and y1 just behind the last, largest visible area first; rows
    of -1 fill up. labels: the kind of scene. Events are in the order of their numbers; each
    depends on its number and the options apart from `limit`, and not on `workers`; one worker
    means this process.
    """
    if workers < 1:
        raise UserError(f"rooms: workers is {workers}; expected 1 or more")
    labels = assign_scenes()
    split = assign_splits(labels, config.seed)
    events = choose_events(labels, split, config.limit)
    tasks = [(config, int(event)) for event in events]
    shots: list[Shot] = []
    for shot in work_all(_shoot, tasks, workers, chunk=8):
        shots.append(shot)
        progress(len(shots), len(tasks))
    labels, split = labels[events], split[events]
    mask = np.stack([shot.mask for shot in shots])
    return Built(
        modalities={
            "rgb": np.stack([shot.rgb for shot in shots]).transpose(0, 3, 1, 2),
            "depth": np.stack([shot.depth for shot in shots])[:, None],
            "thermal": np.stack([shot.thermal for shot in shots])[:, None],
        },
        labels=labels,
        split=split,
        ids={
            "layout": [f"{config.seed}-{event}" for event in events],
            "room": [shot.room for shot in shots],
            "camera": [shot.camera for shot in shots],
            "objects": [shot.objects for shot in shots],
        },
        extras={"mask": mask, "boxes": np.stack([shot.boxes for shot in shots])},
        info=_describe(labels, split, mask),
    )


def assign_scenes() -> np.ndarray:
    """(1000,) int64: the kind of scene of every event, in turn."""
    return np.arange(EVENTS) % len(interiors.ROOMS)


def assign_splits(labels: np.ndarray, seed: int) -> np.ndarray:
    """Split of every event, uint8 (1000,): 600 / 150 / 250 events, each stratified by scene."""
    return split_evenly(labels, HELD_OUT, draw_generator(seed, _WHOLE_SET, _SPLIT))


def make_scene(config: RoomsConfig, event: int) -> render.Scene:
    """The furnished room of an event, before it is drawn."""
    rng, looks = (draw_generator(config.seed, event, purpose) for purpose in (_LAYOUT, _LOOKS))
    label = int(assign_scenes()[event])
    return interiors.furnish(label, rng, looks, config.disguise, config.dark)


def make_shot(config: RoomsConfig, event: int) -> Shot:
    """Furnish the room of an event, draw it and see it through the three sensors."""
    scene = make_scene(config, event)
    rng = draw_generator(config.seed, event, _LIGHT)
    view = render.render(scene, config.side, (WALL, FLOOR, CEILING), rng)
    rngs = [draw_generator(config.seed, event, purpose) for purpose in (_RGB, _DEPTH, _THERMAL)]
    camera = scene.camera
    kinds = [CLASSES[thing.kind] for thing in scene.things]
    return Shot(
        rgb=sense_colour(view, config.rgb_noise, rngs[0]),
        depth=sense_depth(view, config.depth_noise, config.holes, rngs[1]),
        thermal=sense_heat(view, scene, config.thermal_noise, rngs[2]),
        mask=draw_mask(view),
        boxes=draw_boxes(view, [thing.kind for thing in scene.things]),
        room=" x ".join(f"{length:.2f}" for length in scene.size) + " m",
        camera=f"{camera.place[2]:.2f} m up, {np.degrees(camera.field):.0f} degrees wide",
        objects=", ".join(sorted(kinds)),
    )


def draw_mask(view: render.View) -> np.ndarray:
    """(S, S) uint8: the class that all four rays of a pixel meet, `IGNORED` where they differ."""
    kinds = view.kinds
    return np.where((kinds == kinds[0]).all(axis=0), kinds[0], IGNORED).astype(np.uint8)


def draw_boxes(view: render.View, kinds: Sequence[int]) -> np.ndarray:
    """(24, 5) float32: class and tight box of every object of the classes `kinds` that enough
    pixels show, largest first."""
    side = len(view.surface)
    boxes = np.full((BOXES, 5), -1, np.float32)
    areas = np.bincount(view.surface.ravel(), minlength=3 + len(kinds))[3:]
    slices = ndimage.find_objects(view.surface.astype(np.int32) - 2, len(kinds))
    largest = np.argsort(-areas, kind="stable")
    seen = [i for i in largest if areas[i] >= max(1, SMALLEST_BOX * side**2)]
    for row, thing in enumerate(seen[:BOXES]):
        rows, columns = slices[thing]
        boxes[row] = kinds[thing], columns.start, rows.start, columns.stop, rows.stop
    return boxes


def sense_colour(view: render.View, noise: float, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8: exposed at random, off in its white balance, with photon and read noise,
    and the display's gamma of 2.2."""
    low, high = np.log(EXPOSURE)
    level = np.exp(rng.uniform(low, high))
    cast = np.exp(CAST * rng.standard_normal(3))
    image = view.colour * cast
    image = image * (level / max(float(image.mean()), 1e-6))
    # Half of a mid-grey pixel's variance is photon noise; a darker exposure has higher gain.
    photons = np.maximum(image, 0) / MIDDLE
    gain = EXPOSURE[1] / level
    slope = MIDDLE ** (1 - 1 / 2.2) * 2.2  # linear per displayed, at mid-grey
    deviation = noise * slope * np.sqrt(0.5 * photons + 0.5) * np.minimum(gain, 4) * level
    deviation /= EXPOSURE[1]
    image = image + deviation * rng.standard_normal(image.shape)
    return np.round(255 * np.clip(image, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def sense_depth(
    view: render.View, noise: float, holes: float, rng: np.random.Generator
) -> np.ndarray:
    """(S, S) uint16 millimetres as a structured-light camera gives them, 0 where it has none.

    At depth z in metres the standard deviation is 1.2 mm + 1.9 mm (z - 0.4)² (Nguyen, Izadi and
    Lovell 2012, axial noise of the Kinect) times `noise`, half of its variance smooth over some
    pixels; the steps are 2.73 z² + 0.74 z - 0.58 mm (Smisek, Jancosek and Pajdla 2011), at least
    1 mm. What makes holes is as in such cameras; how likely each is, is our choice.
    """
    z = view.depth
    shape = z.shape
    smooth = _draw_smooth(shape, 1.5, rng)
    deviation = 1e-3 * noise * (1.2 + 1.9 * (z - 0.4) ** 2)
    seen = z + deviation * np.sqrt(0.5) * (rng.standard_normal(shape) + smooth)
    step = 1e-3 * np.maximum(1, 2.73 * z**2 + 0.74 * z - 0.58)
    if noise > 0:
        seen = np.round(seen / step) * step
    near = ndimage.minimum_filter(z, size=3, mode="nearest")
    edge = (z - near) / z > EDGE  # the far side of an edge lies in the projector's shadow
    returned = view.infrared * view.facing / z**2
    chance = LOST_ANYWHERE + LOST_AT_EDGE * edge + LOST_BY_GLOSS * view.gloss
    chance = chance + LOST_IN_DARK * np.clip(1 - returned / FAINT, 0, 1)
    # A uniform number per pixel, smooth over some of them, so that holes come in patches.
    rest = np.sqrt(1 - PATCHES**2) * rng.standard_normal(shape)
    drawn = special.ndtr(PATCHES * _draw_smooth(shape, 2.0, rng) + rest)
    lost = drawn < holes * chance
    lost |= (seen < NEAREST) | (seen > FURTHEST)
    return np.where(lost, 0, np.round(MILLIMETRES * seen)).astype(np.uint16)


def sense_heat(
    view: render.View, scene: render.Scene, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """(S, S) uint8 of temperature, blurred; the air is warmer further up."""
    air = rng.uniform(*AIR)
    side = len(view.depth)
    right, down, forward = scene.camera.axes()
    half = np.tan(scene.camera.field / 2)
    middles = (2 * (np.arange(side) + 0.5) / side - 1) * half
    rise = forward[2] + middles[None] * right[2] + middles[:, None] * down[2]
    height = scene.camera.place[2] + rise * view.depth
    heat = air + CLIMB * (height - scene.size[2] / 2) + view.warmth
    heat = ndimage.gaussian_filter(heat, BLUR * side, mode="nearest")
    heat = heat + noise * rng.standard_normal(heat.shape)
    return np.round(255 * np.clip((heat - COLDEST) / SPAN, 0, 1)).astype(np.uint8)


def _draw_smooth(shape: tuple[int, ...], width: float, rng: np.random.Generator) -> np.ndarray:
    """Normal noise of unit variance, correlated over some pixels: `width` is its filter's."""
    filtered = ndimage.gaussian_filter(rng.standard_normal(shape), width, mode="wrap")
    return filtered * (2 * np.sqrt(np.pi) * width)  # a Gaussian filter leaves 1 / (4 pi width²)


def _shoot(task: tuple[RoomsConfig, int]) -> Shot:
    return make_shot(*task)


def _describe(labels: np.ndarray, split: np.ndarray, mask: np.ndarray) -> dict:
    """Facts for the manifest: classes and their shares, units, and what each split holds."""
    counts = np.bincount(mask.ravel(), minlength=IGNORED + 1)
    known = max(1, int(counts[: len(CLASSES)].sum()))
    return {
        "note": NOTE,
        "classes": list(CLASSES),
        "scenes": list(interiors.ROOMS),
        "palette": {name: list(PALETTE[name]) for name in CLASSES},
        "events": {name: int((split == i).sum()) for i, name in enumerate(SPLITS)},
        "shares": {name: round(int(counts[i]) / known, 5) for i, name in enumerate(CLASSES)},
        "ignored": round(int(counts[IGNORED]) / mask.size, 5),
        "depth_unit": "millimetres, 0 where there is no reading",
        "thermal_scale": {"coldest": COLDEST, "span": SPAN, "unit": "degrees Celsius"},
        "boxes": "class, x0, y0, x1, y1 in pixels; rows of -1 fill up",
    }


# Of small vision transformers, whatever stands on them. At `smoke` and `quick` their grid is 8 × 8,
# and nothing is augmented, so that a frozen teacher is read once.
VIT = {
    "optimiser": "adamw",
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-5,
    "schedule": "cosine",
    "warm_up": 200,
    "weight_decay": 0.05,
    "clip": 1.0,
    "batch_size": 16,
}
COARSE = VIT | {"side": 32, "augment": False, "learning_rate": 8e-3, "final_learning_rate": 8e-5}


def _recommend(fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same recipe for every network on the small vision transformer."""
    return {f"vit_small{use}": fields for use in ("_pixels", "_boxes")}


ROOMS = Dataset(
    name="rooms",
    summary="rendered rooms: colour, depth and heat, a class per pixel; made here, no download",
    classes=len(CLASSES),
    modalities={
        "rgb": Modality("deeplabv3plus", "scene_hsv"),
        "depth": Modality("deeplabv3plus", "scene"),
        "thermal": Modality("deeplabv3plus", "scene"),
    },
    options=RoomsConfig,
    directions=("depth2rgb", "rgb2depth"),
    build=build,
    task="segmentation",
    scenes=interiors.ROOMS,
    presets={"quick": {"width": 8, "seeds": (0, 1), "directions": ("depth2rgb",)}},
    recipes={
        "smoke": {"": {"batch_size": 16}, **_recommend(COARSE | {"warm_up": 5})},
        "quick": {
            "": {"batch_size": 16, "epochs": 10},
            **_recommend(COARSE | {"warm_up": 50, "epochs": 16}),
        },
        "reduced": {
            "": {"batch_size": 16, "learning_rate": 0.02},
            **_recommend(VIT | {"epochs": 60}),
        },
        "paper": {
            "": {"batch_size": 16, "learning_rate": 0.02, "epochs": 50},
            **_recommend(VIT | {"epochs": 100}),
        },
    },
)
