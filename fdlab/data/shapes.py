"""The embedded data set `shapes`: 100 fine-grained classes, ten families of ten variants each.

The family is coarse content, a silhouette that is known from afar. The variant is a fine detail
inside it: stripes, checks, a line along the edge, spots. A detail has the mean 0 over its shape and
next to nothing below its own frequency, so that it is gone where the image is blurred. Place, size,
turn, colours, background, light, occluder and noise are drawn without looking at the class, and
every class is its own mirror image. Class k is variant k % 10 of family k // 10.

How pronounced the details are, and how long `quick` trains, was set once, from the accuracies of
single networks without any teacher: the networks that teach were to end above 80 % of the test
split, VGG-8 well below, and all to know nearly every family. So short a training ends where the
accuracy still climbs steeply: twice as many steps reach far more. The students' rate was lowered
once after methods had been compared, since seeds without a teacher ended up to 46 points apart,
which no comparison can see through; it was chosen by that spread alone.

Images are made in worker processes started by `spawn`: a script that calls `build` with two or
more workers must do so under `if __name__ == "__main__":`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fdlab.core.errors import UserError
from fdlab.data.cifar import spread_recipe
from fdlab.data.dataset import SPLITS, Built, Dataset, Modality
from fdlab.data.drawn import choose_events, draw_generator, work_all

IMAGE_SIDE = 32
SUBPIXELS = 3  # points along each side of a pixel at which a shape is computed
LARGEST = 1000  # images of a class in a split
FIRST = 1_000_000  # number of a split's first event over that of the split before

# What a generator's numbers are for. None is 0: numpy seeds [s, e] and [s, e, 0] alike.
_POSE, _LOOK, _NOISE = range(1, 4)

SHIFT = 3.0  # pixels, at most, either way
RADIUS = (10.0, 12.0)  # pixels
TURN = 10.0  # degrees, at most, either way

# Each channel, black to white being 1. A shape is lighter than its ground, whatever their colours:
# with either sign VGG-8 knew 46 % of the families after four epochs, and its errors were coarse.
SHAPE_COLOUR, GROUND_COLOUR = (0.55, 0.85), (0.1, 0.4)
TONE = 0.13  # of a detail over the shape's own colour, at strength 1; either sign
TINT = 0.04  # standard deviation of the tone from channel to channel
SLOPE = 0.15  # of the ground's colour from the middle to a border, at most
WAVES, WAVE = 3, 0.04  # number of the ground's waves, and each one's amplitude at most
LIGHT = 0.2  # part of the light gained or lost from the middle to a corner, at most
OCCLUDER = (3, 6)  # pixels of a rectangle's sides

# Details, in units of the shape's radius, and their strengths, which make them about equally hard.
WIDE, NARROW = 0.56, 0.32  # periods of stripes
DEPTHS = (0.1, 0.18, 0.26)  # below the edge: a line's outer side, its inner one, its halo's end
SPOT = 0.22  # radius
STRIPES, LINE, SPOTS = 0.95, 1.5, 1.7

NOTE = (
    "Everything is synthetic: ten silhouettes with ten details each, drawn by the project. The "
    "family (silhouette) is coarse: it is known at 8 x 8 pixels. The variant (detail) is fine: it "
    "has no mean, and at 8 x 8 pixels hardly anything is left of it. The ten variants recur in "
    "every family. Place, size, turn, colours, background, light, occluder and noise are drawn "
    "apart from the class, every class is its own mirror image, and a shape is lighter than its "
    "ground. Every event is a drawing of its own, so none recurs between the splits."
)

# Of students, and of the teachers, which begin to learn later. Small batches, for the number of
# steps is what counts; nothing is augmented, so that what a teacher says is computed once. At 0.02
# seeds of a student end 3 points apart without a teacher, at 0.05 some 25.
QUICK = {
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 0.02,
    "weight_decay": 5e-4,
    "augment": False,
}
TEACHER = QUICK | {"epochs": 4, "learning_rate": 0.05}

Places = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Family:
    """A silhouette in units of its radius, u to the right and v up, its own mirror image in u.

    distance: of points (u, v) from the edge, negative inside, where it is exact but for corners and
    the middles of compounds; outside only the sign counts. spots: where one, two and three lie.
    """

    distance: Callable[[np.ndarray, np.ndarray], np.ndarray]
    spots: tuple[Places, Places, Places]


@dataclass(frozen=True)
class Pose:
    """Where a shape lies: its middle right of and below the image's and its radius, in pixels, and
    its turn in radians, anticlockwise."""

    x: float = 0.0
    y: float = 0.0
    radius: float = 11.0
    turn: float = 0.0


@dataclass(frozen=True)
class ShapesConfig:
    """How `shapes` is made.

    seed: sets everything random. train, validation, test: images of each class in that split, 1 to
    1000. limit: number of events to keep of all, so many at least that every split has every
    family, stratified by split and class; 0 keeps all. noise: standard deviation of the pixel
    noise, black to white being 1. detail: times the contrast of the variants, 0 to 3; at 0 nothing
    tells those of a family apart.
    """

    seed: int = 0
    train: int = 36
    validation: int = 5
    test: int = 10
    limit: int = 0
    noise: float = 0.04
    detail: float = 1.0

    def __post_init__(self):
        counts = self.counts
        for name, count in zip(SPLITS, counts, strict=True):
            if not 1 <= count <= LARGEST:
                raise UserError(f"{name} is {count}: expected 1 to {LARGEST}")
        total = len(CLASSES) * sum(counts)
        least = -(-len(FAMILIES) * sum(counts) // min(counts))
        for name, is_fine, expected in (
            ("seed", self.seed >= 0, "0 or more"),
            ("limit", self.limit == 0 or least <= self.limit <= total, f"{least} to {total}, or 0"),
            ("noise", 0 <= self.noise <= 10, "0 to 10"),
            ("detail", 0 <= self.detail <= 3, "0 to 3"),
        ):
            if not is_fine:
                raise UserError(f"{name} is {getattr(self, name)}: expected {expected}")

    @property
    def counts(self) -> tuple[int, int, int]:
        """Images of a class in each split."""
        return self.train, self.validation, self.test


def build(
    config: ShapesConfig,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Built:
    """Make the data set; `progress` is told the number of events done and to do.

    image: (N, 3, 32, 32) uint8. Rows are in the order of the events' numbers: splits, in each its
    classes in turn. An event depends on its number, the seed, the noise and the detail: it is the
    same whatever the number of images, the limit and the number of workers; one worker means this
    process.
    """
    if workers < 1:
        raise UserError(f"shapes: workers is {workers}; expected 1 or more")
    counts = np.array(config.counts) * len(CLASSES)
    split = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), counts)
    numbers = np.concatenate([FIRST * i + np.arange(n) for i, n in enumerate(counts)])
    kept = choose_events(find_label(numbers), split, config.limit)
    split, numbers = split[kept], numbers[kept]
    images: list[np.ndarray] = []
    for image in work_all(_draw, [(config, int(n)) for n in numbers], workers, chunk=64):
        images.append(image)
        progress(len(images), len(numbers))
    poses = [draw_pose(config, int(number)) for number in numbers]
    return Built(
        modalities={"image": np.stack(images)},
        labels=find_label(numbers),
        split=split,
        ids={
            "drawing": [f"{config.seed}-{number}" for number in numbers],
            "pose": [
                f"x {pose.x:+.3f}, y {pose.y:+.3f}, radius {pose.radius:.3f}, "
                f"turn {np.degrees(pose.turn):+.3f}"
                for pose in poses
            ],
        },
        info={
            "note": NOTE,
            "classes": list(CLASSES),
            "families": [family for family in FAMILIES for _ in VARIANTS],
            "variants": list(VARIANTS),
            "events": {name: int((split == i).sum()) for i, name in enumerate(SPLITS)},
        },
    )


def find_label(number):
    """The class of an event, from its number; of arrays too."""
    return number % len(CLASSES)


def draw_image(config: ShapesConfig, number: int) -> np.ndarray:
    """(3, 32, 32) uint8: the image of an event."""
    shape = draw_shape(find_label(number), draw_pose(config, number))
    return paint(*shape, config, number)


def draw_pose(config: ShapesConfig, number: int) -> Pose:
    """Where the shape of an event lies, whatever its class."""
    rng = draw_generator(config.seed, number, _POSE)
    x, y = rng.uniform(-SHIFT, SHIFT, 2).tolist()
    turn = float(np.radians(rng.uniform(-TURN, TURN)))
    return Pose(x, y, rng.uniform(*RADIUS), turn)


def draw_shape(label: int, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Cover and tone, (32, 32) float32, of a class: the part of each pixel that the shape covers,
    and what its detail adds there, with the mean 0 over the shape's points."""
    family = list(FAMILIES.values())[label // len(VARIANTS)]
    variant = list(VARIANTS.values())[label % len(VARIANTS)]
    side = IMAGE_SIDE * SUBPIXELS
    places = (np.arange(side, dtype=np.float32) + 0.5) / SUBPIXELS - IMAGE_SIDE / 2
    right = (places[None, :] - pose.x) / pose.radius
    up = (pose.y - places[:, None]) / pose.radius
    cos, sin = float(np.cos(pose.turn)), float(np.sin(pose.turn))
    u, v = cos * right + sin * up, cos * up - sin * right
    distance = family.distance(u, v)
    inside = distance < 0
    tone = np.zeros_like(distance)
    tone[inside] = variant(u[inside], v[inside], distance[inside], family)
    tone[inside] -= tone[inside].mean(dtype=np.float64)
    return _shrink(inside), _shrink(tone)


def paint(cover: np.ndarray, tone: np.ndarray, config: ShapesConfig, number: int) -> np.ndarray:
    """(3, 32, 32) uint8: a shape in the colours, on the ground, in the light, behind the occluder
    and under the noise of an event, whatever its class."""
    rng = draw_generator(config.seed, number, _LOOK)
    axis = np.linspace(-1, 1, IMAGE_SIDE)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"))  # rows, columns
    shape, ground = (rng.uniform(*span, 3)[:, None, None] for span in (SHAPE_COLOUR, GROUND_COLOUR))
    step = rng.choice((-TONE, TONE)) + TINT * rng.standard_normal(3)
    slope = rng.uniform(-SLOPE, SLOPE, (3, 2)) / 2
    phases = np.tensordot(rng.uniform(-2 * np.pi, 2 * np.pi, (WAVES, 2)), grid, 1)
    phases += rng.uniform(0, 2 * np.pi, (WAVES, 1, 1))
    ground = ground + np.tensordot(slope, grid, 1)
    ground += np.tensordot(rng.uniform(-WAVE, WAVE, (3, WAVES)), np.sin(phases), 1)
    image = ground + cover * (shape - ground) + config.detail * step[:, None, None] * tone
    image *= 1 + np.tensordot(rng.uniform(-LIGHT, LIGHT, 2) / 2, grid, 1)
    sides = rng.integers(OCCLUDER[0], OCCLUDER[1] + 1, 2)
    rows, columns = (
        slice(k, k + n) for k, n in zip(rng.integers(IMAGE_SIDE + 1 - sides), sides, strict=True)
    )
    image[:, rows, columns] = rng.uniform(*GROUND_COLOUR, (3, 1, 1))
    noise = draw_generator(config.seed, number, _NOISE).standard_normal(image.shape)
    return _store(image + config.noise * noise)


def draw_specimens(config: ShapesConfig) -> np.ndarray:
    """(100, 3, 32, 32) uint8: every class in the middle and upright, in plain greys."""
    drawn = [draw_shape(label, Pose()) for label in range(len(CLASSES))]
    cover, tone = (np.stack(part)[:, None] for part in zip(*drawn, strict=True))
    shape, ground = np.mean(SHAPE_COLOUR), np.mean(GROUND_COLOUR)
    image = ground + cover * (shape - ground) - config.detail * TONE * tone
    return np.repeat(_store(image), 3, axis=1)


def _draw(task: tuple[ShapesConfig, int]) -> np.ndarray:
    return draw_image(*task)


def _store(image: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _shrink(points: np.ndarray) -> np.ndarray:
    """(32, 32) float32: the mean over the points of each pixel."""
    shape = (IMAGE_SIDE, SUBPIXELS, IMAGE_SIDE, SUBPIXELS)
    return points.reshape(shape).mean(axis=(1, 3), dtype=np.float32)


# ---- silhouettes ---------------------------------------------------------------------------------


def _box(u: np.ndarray, v: np.ndarray, width: float, height: float) -> np.ndarray:
    """A box about 0 by half its sides."""
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _disc(u, v):
    return np.hypot(u, v) - 0.92


def _ring(u, v):
    return np.abs(np.hypot(u, v) - 0.69) - 0.3


def _cross(u, v):
    return np.minimum(_box(u, v, 1.0, 0.32), _box(u, v, 0.32, 1.0))


def _triangle(u, v):
    return np.maximum(np.sqrt(0.75) * np.abs(u) + 0.5 * v - 0.52, -v - 0.62)


def _crescent(u, v):
    return np.maximum(np.hypot(u, v) - 1.0, 0.72 - np.hypot(u, v - 0.62))


def _bar(u, v):
    return _box(u, v, 1.1, 0.42)


def _post(u, v):
    return _box(u, v, 0.42, 1.1)


def _bow(u, v):
    slant = (np.abs(v) - 0.27 - 0.55 * np.abs(u)) / np.hypot(1, 0.55)
    return np.maximum(slant, np.abs(u) - 1.0)


def _tee(u, v):
    return np.minimum(_box(u, v - 0.6, 1.0, 0.34), _box(u, v + 0.35, 0.32, 0.65))


def _arch(u, v):
    return np.maximum(_box(u, v, 0.95, 0.95), np.minimum(0.4 - np.abs(u), 0.35 - v))


def _mirror(u: float, v: float) -> Places:
    return (-u, v), (u, v)


FAMILIES = {
    "disc": Family(_disc, (((0, 0),), _mirror(0.42, 0), ((0, 0.42), *_mirror(0.4, -0.3)))),
    "ring": Family(_ring, (((0, 0.69),), _mirror(0.69, 0), ((0, 0.69), *_mirror(0.6, -0.35)))),
    "cross": Family(_cross, (((0, 0),), _mirror(0.65, 0), ((0, 0), *_mirror(0.65, 0)))),
    "triangle": Family(
        _triangle, (((0, -0.1),), _mirror(0.36, -0.27), ((0, 0.35), *_mirror(0.36, -0.27)))
    ),
    "crescent": Family(
        _crescent, (((0, -0.55),), _mirror(0.62, -0.32), ((0, -0.55), *_mirror(0.62, -0.32)))
    ),
    "bar": Family(_bar, (((0, 0),), _mirror(0.5, 0), ((0, 0), *_mirror(0.7, 0)))),
    "post": Family(_post, (((0, 0),), ((0, -0.5), (0, 0.5)), ((0, -0.7), (0, 0), (0, 0.7)))),
    "bow": Family(_bow, (((0, 0),), _mirror(0.62, 0), ((0, 0), *_mirror(0.62, 0)))),
    "tee": Family(_tee, (((0, 0.6),), _mirror(0.6, 0.6), ((0, -0.5), *_mirror(0.6, 0.6)))),
    "arch": Family(
        _arch, (((0, 0.65),), _mirror(0.67, -0.4), ((0, 0.65), *_mirror(0.67, -0.4)))
    ),
}  # fmt: skip


# ---- details -------------------------------------------------------------------------------------


def _stripes(along: np.ndarray, period: float) -> np.ndarray:
    """1 on a stripe, -1 beside it; one runs through the middle, so that a mirror changes none."""
    return np.sign(np.cos(2 * np.pi / period * along))


def _line(distance: np.ndarray) -> np.ndarray:
    """1 on a line that follows the edge, -1 on its halo inside."""
    start, middle, end = (-distance > depth for depth in DEPTHS)
    return 1.0 * start - 2.0 * middle + 1.0 * end


def _spots(u: np.ndarray, v: np.ndarray, places: Places) -> np.ndarray:
    """1 on round spots, -1 on a halo around each, of the spot's own area."""
    apart = np.min([np.hypot(u - x, v - y) for x, y in places], axis=0)
    return 2.0 * (apart < SPOT) - (apart < np.sqrt(2) * SPOT)


# Name → (u, v, distance to the edge, family) → tone, 0 where there is none.
VARIANTS: dict[str, Callable[..., np.ndarray]] = {
    "plain": lambda u, v, d, family: np.zeros_like(d),
    "wide rows": lambda u, v, d, family: STRIPES * _stripes(v, WIDE),
    "narrow rows": lambda u, v, d, family: STRIPES * _stripes(v, NARROW),
    "wide columns": lambda u, v, d, family: STRIPES * _stripes(u, WIDE),
    "narrow columns": lambda u, v, d, family: STRIPES * _stripes(u, NARROW),
    "checks": lambda u, v, d, family: STRIPES * _stripes(u, WIDE) * _stripes(v, WIDE),
    "inner line": lambda u, v, d, family: LINE * _line(d),
    "one spot": lambda u, v, d, family: SPOTS * _spots(u, v, family.spots[0]),
    "two spots": lambda u, v, d, family: SPOTS * _spots(u, v, family.spots[1]),
    "three spots": lambda u, v, d, family: SPOTS * _spots(u, v, family.spots[2]),
}
CLASSES = tuple(f"{family}, {variant}" for family in FAMILIES for variant in VARIANTS)


SHAPES = Dataset(
    name="shapes",
    summary="drawn shapes, ten families of ten fine variants; made here, no download",
    classes=len(CLASSES),
    modalities={"image": Modality("vgg8", "pad_flip")},
    options=ShapesConfig,
    directions=("image2image",),
    build=build,
    presets={"quick": {"seeds": (0, 1, 2)}},
    recipes={
        "quick": {"": QUICK, "vgg13": TEACHER, "resnet8x4": TEACHER},
        "reduced": spread_recipe(epochs=60),
        "paper": spread_recipe(),
    },
    pairs=("vgg13-vgg8", "resnet8x4-vgg8"),
    specimens=draw_specimens,
)
