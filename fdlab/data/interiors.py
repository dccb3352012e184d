"""What stands in a room: random furniture, people and clutter, and where they go.

Every piece of furniture is a compound of boxes, cylinders and ellipsoids. In its own coordinates
it stands on z = 0 about the origin, its back towards +y. The kind of room sets what is likely to
stand in it; sizes in metres are ours, after common furniture.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fdlab.data.render import Camera, Light, Material, Part, Scene, Thing

CLASSES = (
    "wall", "floor", "ceiling", "window", "door", "picture", "table", "chair", "bed", "sofa",
    "cabinet", "lamp", "person", "other",
)  # fmt: skip
(
    WALL, FLOOR, CEILING, WINDOW, DOOR, PICTURE, TABLE, CHAIR, BED, SOFA,
    CABINET, LAMP, PERSON, OTHER,
) = range(len(CLASSES))  # fmt: skip
ROOMS = ("bedroom", "living room", "kitchen", "office", "bathroom", "corridor")

NIGHT = 0.35  # of the windows look into the dark
TRIES = 14  # places tried before a piece is left out
FLAT = 0.05  # metres of depth or height up to which a thing casts no shadow
SKIN = 12.0  # kelvin above the air
CLOTHES = (5.0, 9.0)

Range = tuple[float, float]
BACK, LEFT, RIGHT, FRONT = "back", "left", "right", "front"
_YAWS = {BACK: 0.0, LEFT: math.pi / 2, RIGHT: -math.pi / 2, FRONT: math.pi}


@dataclass(frozen=True)
class Piece:
    """A piece of furniture before it has a place: width, depth, height; `top` carries clutter."""

    kind: int
    parts: tuple[Part, ...]
    size: tuple[float, float, float]
    top: float = 0.0


@dataclass(frozen=True)
class Pose:
    """Where a piece stands; along: its place on the wall behind it, if it has one."""

    x: float
    y: float
    yaw: float
    wall: str = ""
    along: float = 0.0


class Style:
    """What is random about one room.

    rng: for what stands where. looks: for the materials, so that other colours leave the geometry
    as it is; disguise: the part of the materials that repeat one which the room has already,
    whatever the class, so that textures are shared.
    """

    def __init__(self, rng: np.random.Generator, looks: np.random.Generator, disguise: float):
        self.rng, self.looks, self.disguise = rng, looks, disguise
        self._seen: list[Material] = []

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, choices: Sequence):
        return choices[int(self.rng.integers(len(choices)))]

    def seed(self) -> int:
        """Of a texture's random parts."""
        return int(self.looks.integers(1 << 16))

    def colour(self, hue: Range, saturation: Range, value: Range) -> tuple[float, float, float]:
        """Linear RGB of a random hue, saturation and value (of the display's RGB), 0 to 1."""
        hsv = (float(self.looks.uniform(*limits)) for limits in (hue, saturation, value))
        return tuple(channel**2.2 for channel in colorsys.hsv_to_rgb(*hsv))

    def draw(self, family: str, **changes) -> Material:
        """A material of a family, or one the room has already; `changes` go over it."""
        looks = self.looks
        if looks.random() < self.disguise and self._seen:
            material = self._seen[int(looks.integers(len(self._seen)))]
        else:
            ranges, patterns, sizes = _FAMILIES[family]
            first, second = (self.colour(*ranges[int(looks.integers(len(ranges)))]) for _ in "ab")
            if looks.random() < 0.5:  # two tones of one colour
                factor = float(looks.uniform(0.4, 0.85))
                second = tuple(factor * channel for channel in first)
            pattern = patterns[int(looks.integers(len(patterns)))]
            material = Material(first, second, pattern, float(looks.uniform(*sizes)))
            self._seen.append(material)
        own = {
            "seed": self.seed(),
            "warmth": float(looks.normal(0, 0.5)),
            "infrared": float(looks.uniform(0.1, 0.95)),
            "gloss": {"metal": 0.6, "tile": 0.25}.get(family, 0.0),
        }
        return replace(material, **(own | changes))


_ANY = (0.0, 1.0)
_WOOD = [(0.04, 0.11), (0.35, 0.7), (0.2, 0.75)]
_PALE = [_ANY, (0.0, 0.25), (0.6, 0.97)]
_VIVID = [_ANY, (0.35, 0.85), (0.25, 0.9)]
_GREY = [_ANY, (0.0, 0.12), (0.1, 0.9)]
# Family → ranges of hue, saturation and value; patterns; size of a pattern's cell in metres.
_FAMILIES = {
    "wood": ([_WOOD], ("grain", "grain", "planks", "plain"), (0.06, 0.2)),
    "fabric": (
        [_VIVID, _VIVID, _PALE, _GREY],
        ("plain", "plain", "mottled", "stripes", "checks", "dots"),
        (0.08, 0.3),
    ),
    "paint": (
        [_PALE, _PALE, _PALE, _GREY, _VIVID],
        ("plain", "plain", "plain", "mottled"),
        (0.3, 1.0),
    ),
    "paper": ([_PALE, _PALE, _VIVID], ("plain", "stripes", "dots", "mottled"), (0.15, 0.5)),
    "tile": ([_PALE, _GREY, _VIVID], ("tiles", "tiles", "checks"), (0.15, 0.4)),
    "metal": ([_GREY], ("plain",), (0.1, 0.2)),
    "white": ([[_ANY, (0.0, 0.06), (0.8, 0.97)]], ("plain",), (0.1, 0.2)),
    "art": ([_VIVID, _PALE, _WOOD], ("blocks", "mottled", "blocks", "horizon"), (0.12, 0.3)),
    "ground": ([_WOOD, _WOOD, _GREY, _PALE], ("planks", "planks", "tiles", "mottled"), (0.12, 0.4)),
}


# ---- parts ---------------------------------------------------------------------------------------


def box(x: Range, y: Range, z: Range, material: Material) -> Part:
    """A box from its ranges along x, y and z."""
    centre = tuple((low + high) / 2 for low, high in (x, y, z))
    half = tuple((high - low) / 2 for low, high in (x, y, z))
    return Part("box", centre, half, material)


def pole(
    x: float, y: float, z: Range, radius: float, material: Material, flat: float = 1.0
) -> Part:
    """An upright cylinder; its extent along y is `flat` times the one along x."""
    middle, half = (z[0] + z[1]) / 2, (z[1] - z[0]) / 2
    return Part("cylinder", (x, y, middle), (radius, radius * flat, half), material)


def ball(centre: tuple, half: tuple, material: Material) -> Part:
    return Part("ellipsoid", centre, half, material)


def _legs(
    style: Style, w: float, d: float, z: Range, thickness: float, material: Material
) -> list[Part]:
    x, y = w / 2 - thickness, d / 2 - thickness
    corners = [(i * x, j * y) for i in (-1, 1) for j in (-1, 1)]
    if style.chance(0.5):
        return [pole(i, j, z, thickness, material) for i, j in corners]
    r = thickness
    return [box((i - r, i + r), (j - r, j + r), z, material) for i, j in corners]


# ---- furniture -----------------------------------------------------------------------------------


def make_chair(style: Style, office: bool = False) -> Piece:
    w, d, seat, top = 0.44, 0.46, style.between(0.42, 0.48), style.between(0.8, 1.05)
    frame = style.draw(style.pick(("wood", "metal", "paint")))
    cloth = style.draw("fabric") if office or style.chance(0.5) else frame
    parts = [box((-w / 2, w / 2), (-d / 2, d / 2), (seat - 0.06, seat), cloth)]
    if office:
        parts += [
            pole(0, 0, (0.05, seat), 0.03, frame),
            pole(0, 0, (0.0, 0.06), 0.26, frame),
            box((-w / 2, w / 2), (d / 2 - 0.06, d / 2), (seat + 0.12, top), cloth),
            box((-0.04, 0.04), (d / 2 - 0.05, d / 2), (seat, seat + 0.14), frame),
        ]
    else:
        parts += _legs(style, w, d, (0, seat - 0.04), 0.025, frame)
        if style.chance(0.5):
            parts.append(box((-w / 2, w / 2), (d / 2 - 0.04, d / 2), (seat, top), cloth))
        else:
            parts += [
                box((x - 0.02, x + 0.02), (d / 2 - 0.04, d / 2), (seat, top), frame)
                for x in (-w / 2 + 0.02, 0.0, w / 2 - 0.02)
            ]
            parts.append(box((-w / 2, w / 2), (d / 2 - 0.04, d / 2), (top - 0.12, top), frame))
    if style.chance(0.4 if office else 0.2):
        parts += [
            box((x - 0.03, x + 0.03), (-d / 2, d / 2), (seat + 0.18, seat + 0.22), frame)
            for x in (-w / 2, w / 2)
        ]
    return Piece(CHAIR, tuple(parts), (w, d, top), seat)


def make_table(style: Style, use: str) -> Piece:
    """use: "dining", "desk" or "coffee"."""
    sizes = {
        "dining": ((1.0, 1.8), (0.7, 0.95), (0.7, 0.78)),
        "desk": ((1.0, 1.6), (0.55, 0.75), (0.7, 0.77)),
        "coffee": ((0.7, 1.2), (0.45, 0.7), (0.35, 0.5)),
    }
    w, d, h = (style.between(*r) for r in sizes[use])
    top, under = style.draw("wood"), style.draw(style.pick(("wood", "metal")))
    slab = style.between(0.03, 0.06)
    if use != "desk" and style.chance(0.3):
        w = d = (w + d) / 2
        parts = [
            pole(0, 0, (h - slab, h), w / 2, top),
            pole(0, 0, (0, h - slab), 0.06, under),
            pole(0, 0, (0, 0.04), w / 4, under),
        ]
        return Piece(TABLE, tuple(parts), (w, d, h), h)
    parts = [box((-w / 2, w / 2), (-d / 2, d / 2), (h - slab, h), top)]
    if use == "desk" and style.chance(0.6):
        parts += [
            box((x - 0.02, x + 0.02), (-d / 2 + 0.03, d / 2), (0, h - slab), under)
            for x in (-w / 2 + 0.02, w / 2 - 0.02)
        ]
        if style.chance(0.6):
            x = style.pick((-1, 1)) * (w / 2 - 0.24)
            parts.append(
                box((x - 0.2, x + 0.2), (-d / 2 + 0.05, d / 2), (0.05, h - slab - 0.02), top)
            )
        else:
            parts.append(box((-w / 2, w / 2), (d / 2 - 0.04, d / 2), (0.3, h - slab), under))
    else:
        parts += _legs(style, w, d, (0, h - slab), style.between(0.025, 0.045), under)
    return Piece(TABLE, tuple(parts), (w, d, h), h)


def make_bed(style: Style) -> Piece:
    w, d, h = style.pick((0.95, 1.2, 1.6)), 2.05, style.between(0.42, 0.58)
    frame, sheet = style.draw("wood"), style.draw(style.pick(("white", "fabric")))
    blanket, pillow = style.draw("fabric", warmth=0.8), style.draw(style.pick(("white", "fabric")))
    board = style.between(0.7, 1.15)
    end = style.between(0.2, 0.55)
    parts = [
        box((-w / 2, w / 2), (-d / 2, d / 2), (0.08, h - 0.2), frame),
        box((-w / 2, w / 2), (d / 2 - 0.06, d / 2), (0, board), frame),
        box((-w / 2 + 0.03, w / 2 - 0.03), (-d / 2 + 0.03, d / 2 - 0.06), (h - 0.2, h), sheet),
        box(
            (-w / 2 - 0.02, w / 2 + 0.02),
            (-d / 2, d / 2 - end - 0.3),
            (h - 0.15, h + 0.05),
            blanket,
        ),
    ]
    for x in (0.0,) if w < 1.3 else (-w / 4, w / 4):
        parts.append(ball((x, d / 2 - 0.3, h + 0.05), (0.3, 0.19, 0.1), pillow))
    return Piece(BED, tuple(parts), (w, d, board), h)


def make_sofa(style: Style, seats: int) -> Piece:
    cloth = style.draw("fabric")
    cushion = style.draw("fabric") if style.chance(0.5) else cloth
    w, d, h = 0.35 + 0.6 * seats, style.between(0.8, 0.95), style.between(0.7, 0.95)
    seat, arm = 0.42, style.between(0.55, 0.65)
    parts = [
        box((-w / 2, w / 2), (-d / 2 + 0.03, d / 2), (0.06, seat - 0.12), cloth),
        box((-w / 2, w / 2), (d / 2 - 0.22, d / 2), (0.1, h), cloth),
        box((-w / 2, -w / 2 + 0.16), (-d / 2, d / 2), (0.06, arm), cloth),
        box((w / 2 - 0.16, w / 2), (-d / 2, d / 2), (0.06, arm), cloth),
    ]
    inner = (w - 0.32) / seats
    for k in range(seats):
        x = -w / 2 + 0.16 + inner * k
        parts.append(
            box((x + 0.01, x + inner - 0.01), (-d / 2, d / 2 - 0.22), (seat - 0.12, seat), cloth)
        )
        if style.chance(0.5):
            place = (x + inner / 2, d / 2 - 0.27, seat + 0.2)
            parts.append(ball(place, (0.22, 0.1, 0.2), cushion))
    return Piece(SOFA, tuple(parts), (w, d, h), seat)


def make_cabinet(style: Style, use: str) -> Piece:
    """use: "wardrobe", "drawers", "shelf", "nightstand", "counter", "wall unit", "fridge" or
    "sideboard"; a wall unit hangs."""
    sizes = {
        "wardrobe": ((0.9, 1.8), (0.5, 0.62), (1.8, 2.2)),
        "drawers": ((0.6, 1.1), (0.4, 0.5), (0.75, 1.2)),
        "shelf": ((0.7, 1.3), (0.26, 0.36), (1.2, 2.1)),
        "nightstand": ((0.38, 0.5), (0.36, 0.42), (0.4, 0.6)),
        "counter": ((1.2, 2.6), (0.58, 0.64), (0.86, 0.93)),
        "wall unit": ((0.8, 2.0), (0.3, 0.36), (0.5, 0.75)),
        "fridge": ((0.56, 0.7), (0.58, 0.66), (1.4, 1.95)),
        "sideboard": ((1.1, 1.8), (0.38, 0.48), (0.45, 0.8)),
    }
    w, d, h = (style.between(*r) for r in sizes[use])
    family = "white" if use == "fridge" else style.pick(("wood", "wood", "paint", "white"))
    body = style.draw(family, **({"gloss": 0.4, "warmth": 0.6} if use == "fridge" else {}))
    knob = style.draw("metal")
    x, y, z = (-w / 2, w / 2), (-d / 2, d / 2), (0.0, h)
    if use == "shelf":
        inside = replace(body, first=tuple(0.8 * c for c in body.first))
        books = style.draw("art", pattern="spines", scale=style.between(0.04, 0.09))
        boards = 2 + int(h / 0.42)
        parts = [
            box(x, (d / 2 - 0.02, d / 2), z, inside),
            *(box((i - 0.02, i + 0.02), y, z, body) for i in (-w / 2 + 0.02, w / 2 - 0.02)),
        ]
        step = (h - 0.03) / (boards - 1)
        for k in range(boards):
            parts.append(box(x, y, (k * step, k * step + 0.03), body))
            if k < boards - 1 and style.chance(0.8):
                length = style.between(0.3, 0.95) * (w - 0.08)
                tall = style.between(0.5, 0.85) * step
                parts.append(
                    box((-w / 2 + 0.04, -w / 2 + 0.04 + length),
                        (-d / 2 + style.between(0.03, 0.1), d / 2 - 0.02),
                        (k * step + 0.03, k * step + 0.03 + tall), books)
                )  # fmt: skip
        return Piece(CABINET, tuple(parts), (w, d, h), h)
    parts = [box(x, y, z, body)]
    fronts = 1 if use in ("nightstand", "fridge") else max(2, round(w / 0.5))
    rows = {"drawers": 3, "nightstand": 2, "fridge": 2}.get(use, 1)
    front = replace(body, first=tuple(style.between(0.75, 1.0) * c for c in body.first))
    foot = 0.08 if use != "wall unit" else 0.0
    for i in range(fronts):
        for j in range(rows):
            x0, z0 = -w / 2 + i * w / fronts, foot + j * (h - foot) / rows
            x1, z1 = x0 + w / fronts, z0 + (h - foot) / rows
            parts.append(
                box((x0 + 0.02, x1 - 0.02), (-d / 2 - 0.015, -d / 2), (z0 + 0.02, z1 - 0.02), front)
            )
            if style.chance(0.7):
                side = x1 - 0.07 if i % 2 == 0 else x0 + 0.07
                middle = (z0 + z1) / 2
                parts.append(
                    box((side - 0.02, side + 0.02), (-d / 2 - 0.05, -d / 2 - 0.01),
                        (middle - 0.08, middle + 0.08), knob)
                )  # fmt: skip
    if use == "counter":
        slab = style.draw(style.pick(("wood", "tile", "metal")))
        parts.append(box(x, (-d / 2 - 0.03, d / 2), (h, h + 0.04), slab))
        h += 0.04
    return Piece(CABINET, tuple(parts), (w, d, h), h)


def make_lamp(style: Style, use: str, lit: bool) -> Piece:
    """use: "floor", "table", "pendant" (its cord is 0.6 m) or "ceiling"; the last two hang with
    their top at the height of the piece."""
    shine = style.colour((0.07, 0.14), (0.05, 0.5), (0.9, 1.0))
    shade = style.draw("fabric", pattern="plain", warmth=16.0 if lit else 0.3)
    if lit:
        shade = replace(shade, first=shine, glow=style.between(2.0, 5.0))
    metal = style.draw("metal", warmth=0.5)
    globe = style.chance(0.4)
    if use == "ceiling":
        r = style.between(0.2, 0.32)
        return Piece(LAMP, (pole(0, 0, (0, 0.12), r, shade),), (2 * r, 2 * r, 0.12))
    if use == "pendant":
        r = style.between(0.17, 0.28)
        top = ball((0, 0, r), (r, r, r), shade) if globe else pole(0, 0, (0, 1.3 * r), r, shade)
        cord = pole(0, 0, (r, 0.9), 0.015, metal)
        return Piece(LAMP, (top, cord), (2 * r, 2 * r, 0.9))
    h = style.between(1.4, 1.75) if use == "floor" else style.between(0.42, 0.6)
    r = style.between(0.18, 0.26) if use == "floor" else style.between(0.12, 0.17)
    round_shade, straight_shade = (
        ball((0, 0, h - r), (r, r, r), shade),
        pole(0, 0, (h - 1.4 * r, h), r, shade),
    )
    top = round_shade if globe else straight_shade
    stand = pole(0, 0, (0, h - r), 0.02, metal)
    foot = pole(0, 0, (0, 0.03), 0.7 * r, metal)
    return Piece(LAMP, (top, stand, foot), (2 * r, 2 * r, h))


def make_person(style: Style, pose: str) -> Piece:
    """pose: "standing", "sitting" (the seat's height is 0 and its back at +y) or "lying"."""
    shirt = style.draw("fabric", warmth=style.between(*CLOTHES))
    trousers = style.draw("fabric", warmth=style.between(*CLOTHES))
    tone = style.between(0.25, 0.95)
    skin = Material(tuple(tone * c for c in (0.75, 0.45, 0.33)), warmth=SKIN, infrared=0.6)
    dark = style.colour((0.02, 0.12), (0.2, 0.7), (0.05, 0.6))
    hair = Material(dark, warmth=0.6 * SKIN, infrared=0.3)
    tall = style.between(0.88, 1.06)
    sleeve = skin if style.chance(0.4) else shirt
    parts: list[Part] = []
    if pose == "standing":
        hip, gap = 0.85, style.between(0.08, 0.14)
        parts += [
            pole(-gap, style.between(-0.12, 0.12), (0, hip), 0.085, trousers),
            pole(gap, style.between(-0.12, 0.12), (0, hip), 0.085, trousers),
        ]
    else:
        hip = 0.0
        lap = [Part("cylinder", (x, -0.25, 0.09), (0.09, 0.27, 0.09), trousers, axis=1)
               for x in (-0.11, 0.11)]  # fmt: skip
        shin = [pole(x, -0.46, (-0.45, 0.1), 0.075, trousers) for x in (-0.11, 0.11)]
        parts += lap + shin
    wide = style.between(0.17, 0.23)
    parts += [
        pole(0, 0, (hip - 0.05, hip + 0.58), wide, shirt, flat=0.62),
        pole(0, 0, (hip + 0.55, hip + 0.7), 0.06, skin),
        ball((0, 0, hip + 0.77), (0.095, 0.11, 0.13), skin),
        ball((0, 0.025, hip + 0.81), (0.1, 0.11, 0.115), hair),
    ]
    for side in (-1, 1):
        x = side * (wide + 0.05)
        parts += [
            pole(x, -0.02, (hip + 0.02, hip + 0.56), 0.055, sleeve),
            ball((x, -0.02, hip - 0.02), (0.05, 0.05, 0.08), skin),
        ]
    scaled = tuple(
        replace(p, centre=tuple(tall * c for c in p.centre), half=tuple(tall * c for c in p.half))
        for p in parts
    )
    return Piece(PERSON, scaled, (0.55, 0.45, tall * (hip + 0.9)))


def make_window(style: Style, w: float, h: float, night: bool) -> Piece:
    """Frame and panes; its lower edge is at 0."""
    frame = style.draw(style.pick(("white", "wood", "paint")), warmth=-1.5)
    if night:
        sky, ground = style.colour(_ANY, (0.1, 0.5), (0.02, 0.15)), (0.01, 0.01, 0.012)
        glow = 0.3
    else:
        sky = style.colour((0.52, 0.63), (0.0, 0.45), (0.75, 1.0))
        ground = style.colour((0.1, 0.4), (0.1, 0.6), (0.2, 0.75))
        glow = style.between(0.6, 2.2)
    pane = Material(
        sky, ground, "horizon", 0.3 * h, style.seed(), glow=glow,
        warmth=style.between(-10, -3.5), infrared=style.between(0.2, 0.9), gloss=0.55,
    )  # fmt: skip
    bars = 1 + int(w > 0.8)
    parts = [
        box((-w / 2, w / 2), (0, 0.02), (0, h), pane),
        *(box((-w / 2, w / 2), (-0.02, 0.02), (z, z + 0.05), frame) for z in (0.0, h - 0.05)),
    ]
    for k in range(bars + 1):
        x = -w / 2 + k * (w - 0.05) / bars
        parts.append(box((x, x + 0.05), (-0.02, 0.02), (0, h), frame))
    return Piece(WINDOW, tuple(parts), (w, 0.04, h))


def make_door(style: Style) -> Piece:
    w, h = style.between(0.75, 0.95), style.between(1.95, 2.1)
    leaf = style.draw(style.pick(("wood", "paint", "white")))
    frame = leaf if style.chance(0.4) else style.draw(style.pick(("wood", "white")))
    edge = 0.07
    parts = [
        box((-w / 2, w / 2), (0, 0.02), (0, h), leaf),
        *(box((x - edge / 2, x + edge / 2), (-0.01, 0.02), (0, h + edge), frame)
          for x in (-w / 2, w / 2)),
        box((-w / 2, w / 2), (-0.01, 0.02), (h, h + edge), frame),
        box((w / 2 - 0.14, w / 2 - 0.06), (-0.05, 0), (1.0, 1.05), style.draw("metal")),
    ]  # fmt: skip
    if style.chance(0.5):  # panels
        inner = replace(leaf, first=tuple(0.7 * c for c in leaf.first))
        parts += [
            box((-w / 2 + 0.14, w / 2 - 0.16), (-0.006, 0), z, inner)
            for z in ((0.2, 0.9), (1.12, h - 0.15))
        ]
    return Piece(DOOR, tuple(parts), (w + edge, 0.04, h + edge))


def make_picture(style: Style) -> Piece:
    w, h = style.between(0.35, 1.1), style.between(0.35, 0.9)
    frame, art = style.draw(style.pick(("wood", "metal", "white"))), style.draw("art")
    parts = [
        box((-w / 2, w / 2), (0, 0.02), (0, h), frame),
        box((-w / 2 + 0.04, w / 2 - 0.04), (-0.004, 0), (0.04, h - 0.04), art),
    ]
    return Piece(PICTURE, tuple(parts), (w, 0.03, h))


def make_mirror(style: Style) -> Piece:
    w, h = style.between(0.4, 0.9), style.between(0.5, 0.9)
    glass = Material(
        style.colour(_ANY, (0, 0.15), (0.5, 0.9)), style.colour(_ANY, (0, 0.3), (0.2, 0.7)),
        "mottled", 0.4, style.seed(), gloss=0.8,
    )  # fmt: skip
    return Piece(OTHER, (box((-w / 2, w / 2), (0, 0.02), (0, h), glass),), (w, 0.02, h))


def make_screen(style: Style, w: float) -> Piece:
    """A television or a monitor on its foot."""
    h, lit = 0.6 * w, style.chance(0.5)
    black = Material((0.01, 0.01, 0.012), infrared=style.between(0.05, 0.3), gloss=0.5,
                     warmth=style.between(3, 9) if lit else 0.3)  # fmt: skip
    face = style.draw("art", glow=1.2, warmth=black.warmth, gloss=0.5) if lit else black
    parts = (
        box((-w / 2, w / 2), (0, 0.04), (0.08, 0.08 + h), black),
        box((-w / 2 + 0.02, w / 2 - 0.02), (-0.004, 0), (0.1, 0.06 + h), face),
        box((-w / 6, w / 6), (-0.05, 0.08), (0, 0.03), black),
        box((-0.03, 0.03), (0.01, 0.04), (0.02, 0.1), black),
    )
    return Piece(OTHER, parts, (w, 0.2, h + 0.08))


def make_radiator(style: Style) -> Piece:
    w, h = style.between(0.6, 1.2), style.between(0.5, 0.65)
    hot = style.between(10, 28) if style.chance(0.65) else 0.5
    body = style.draw("white", warmth=hot, pattern="stripes", scale=0.1, seed=1)
    parts = (box((-w / 2, w / 2), (-0.05, 0.05), (0.12, 0.12 + h), body),)
    return Piece(OTHER, parts, (w, 0.1, 0.12 + h))


def make_rug(style: Style, w: float, d: float) -> Piece:
    cloth = style.draw("fabric", pattern=style.pick(("stripes", "checks", "blocks", "mottled")))
    cloth = replace(cloth, scale=style.between(0.15, 0.4))
    if style.chance(0.3):
        part = pole(0, 0, (0, 0.012), w / 2, cloth, flat=d / w)
    else:
        part = box((-w / 2, w / 2), (-d / 2, d / 2), (0, 0.012), cloth)
    return Piece(OTHER, (part,), (w, d, 0.012))


def make_plant(style: Style) -> Piece:
    leaves = Material(
        style.colour((0.22, 0.4), (0.3, 0.8), (0.15, 0.6)),
        style.colour((0.22, 0.4), (0.3, 0.8), (0.1, 0.4)),
        "mottled", 0.06, infrared=0.8, warmth=-0.5,
    )  # fmt: skip
    h, r = style.between(0.5, 1.3), style.between(0.18, 0.32)
    pot = style.draw(style.pick(("tile", "paint")), pattern="plain")
    parts = [pole(0, 0, (0, 0.3), 0.15, pot), pole(0, 0, (0.3, h), 0.02, leaves)]
    for _ in range(3):
        x, y = style.rng.uniform(-0.12, 0.12, 2).tolist()
        parts.append(ball((x, y, h + style.between(-0.15, 0.1)), (r, r, 0.8 * r), leaves))
    return Piece(OTHER, tuple(parts), (2 * r, 2 * r, h + r))


def make_curtain(style: Style, h: float) -> Piece:
    w = style.between(0.25, 0.5)
    cloth = style.draw("fabric", warmth=-1.0)
    folds = [
        Part("cylinder", (x, 0, h / 2), (w / 6, 0.05, h / 2), cloth) for x in (-w / 3, 0.0, w / 3)
    ]
    return Piece(OTHER, tuple(folds), (w, 0.1, h))


def make_clutter(style: Style, large: bool) -> Piece:
    """Small things on a table (small) or on the floor (large)."""
    f = style.between(1.6, 3.0) if large else style.between(0.8, 1.4)
    cloth = style.draw(style.pick(("fabric", "art", "paint", "metal", "wood")))
    what = style.pick(("box", "bottle", "ball", "stack", "bowl"))
    if what == "box":
        w, d, h = (f * style.between(0.08, 0.2) for _ in range(3))
        parts = [box((-w / 2, w / 2), (-d / 2, d / 2), (0, h), cloth)]
    elif what == "bottle":
        r, h = f * 0.045, f * style.between(0.2, 0.28)
        parts = [pole(0, 0, (0, 0.65 * h), r, cloth), pole(0, 0, (0.6 * h, h), 0.4 * r, cloth)]
    elif what == "ball":
        r = f * style.between(0.06, 0.1)
        parts = [ball((0, 0, r), (r, r, r), cloth)]
    elif what == "stack":
        w, d = f * 0.13, f * 0.1
        parts = []
        for k in range(4):
            i, j = style.rng.uniform(-0.03, 0.03, 2).tolist()
            parts.append(
                box((i - w, i + w), (j - d, j + d), (0.04 * f * k, 0.04 * f * (k + 1)),
                    style.draw("art", pattern="plain"))
            )  # fmt: skip
    else:
        r = f * style.between(0.07, 0.1)
        parts = [pole(0, 0, (0, 0.9 * r), r, cloth)]
        warm = style.between(8, 20) if style.chance(0.25) else 0.0
        parts.append(pole(0, 0, (0.9 * r, 0.95 * r), 0.85 * r, style.draw("fabric", warmth=warm)))
    low = min(p.centre[0] - p.half[0] for p in parts)
    high = max(p.centre[0] + p.half[0] for p in parts)
    return Piece(OTHER, tuple(parts), (high - low, high - low, 0.2))


def make_bath(style: Style) -> Piece:
    w, d, h = 1.65, 0.75, 0.58
    white = style.draw("white", gloss=0.4)
    hot = style.between(8, 18) if style.chance(0.4) else -0.5
    water = Material((0.35, 0.5, 0.55), (0.5, 0.6, 0.65), "mottled", 0.2, gloss=0.7, warmth=hot)
    parts = (
        box((-w / 2, w / 2), (-d / 2, d / 2), (0, 0.35), white),
        box((-w / 2, w / 2), (-d / 2, -d / 2 + 0.08), (0.35, h), white),
        box((-w / 2, w / 2), (d / 2 - 0.08, d / 2), (0.35, h), white),
        box((-w / 2, -w / 2 + 0.1), (-d / 2, d / 2), (0.35, h), white),
        box((w / 2 - 0.1, w / 2), (-d / 2, d / 2), (0.35, h), white),
        box((-w / 2 + 0.1, w / 2 - 0.1), (-d / 2 + 0.08, d / 2 - 0.08), (0.35, 0.42), water),
    )
    return Piece(OTHER, parts, (w, d, h))


def make_toilet(style: Style) -> Piece:
    white = style.draw("white", gloss=0.4)
    parts = (
        box((-0.19, 0.19), (0.17, 0.34), (0.35, 0.8), white),
        Part("cylinder", (0, -0.08, 0.2), (0.14, 0.22, 0.2), white),
        Part("cylinder", (0, -0.06, 0.41), (0.19, 0.26, 0.03), style.draw("white")),
    )
    return Piece(OTHER, parts, (0.4, 0.68, 0.8))


def make_sink(style: Style) -> Piece:
    white, metal = style.draw("white", gloss=0.4), style.draw("metal")
    parts = (
        pole(0, 0.05, (0, 0.75), 0.09, white),
        box((-0.28, 0.28), (-0.22, 0.22), (0.72, 0.86), white),
        Part("cylinder", (0, -0.03, 0.865), (0.2, 0.14, 0.006),
             replace(white, first=tuple(0.6 * c for c in white.first))),
        pole(0, 0.17, (0.86, 1.0), 0.025, metal),
    )  # fmt: skip
    return Piece(OTHER, parts, (0.56, 0.44, 0.86))


# ---- the room ------------------------------------------------------------------------------------


class Layout:
    """A room that is being furnished: its size, what is taken, and what stands where."""

    def __init__(self, style: Style, size: tuple[float, float, float], camera: Camera):
        self.style, self.size, self.camera = style, size, camera
        self.things: list[Thing] = []
        self.lights: list[Light] = []
        self._floor: list[tuple[float, float, float, float]] = []
        self._walls: list[tuple[str, float, float, float, float]] = []
        x, y, _ = camera.place
        ahead = (x - 0.7 * math.sin(camera.yaw), y + 0.7 * math.cos(camera.yaw))
        for cx, cy in ((x, y), ahead):
            self._floor.append((cx - 0.4, cx + 0.4, cy - 0.4, cy + 0.4))

    def add(self, piece: Piece, pose: Pose, z: float = 0.0) -> int:
        """Put a piece where it is told to; returns its number."""
        flat = min(piece.size[1:]) <= FLAT
        self.things.append(Thing(piece.kind, piece.parts, (pose.x, pose.y, z), pose.yaw, flat))
        return len(self.things) - 1

    def place(self, piece: Piece, pose: Pose, flat: bool = False) -> bool:
        """Put a piece on the floor there if it is free; flat: it takes no room."""
        rectangle = _footprint(piece, pose)
        w, d, _ = self.size
        inside = min(rectangle[0], rectangle[2]) > -0.03
        inside = inside and rectangle[1] < w + 0.03 and rectangle[3] < d + 0.03
        if not inside or (not flat and any(_overlap(rectangle, r) for r in self._floor)):
            return False
        if not flat:
            self._floor.append(rectangle)
        self.add(piece, pose)
        return True

    def against(self, piece: Piece, walls: Sequence[str] = (), gap: float = 0.02) -> Pose | None:
        """Put a piece with its back to a wall; None where no place was found."""
        w, d, h = piece.size
        for _ in range(TRIES):
            wall = self.style.pick(walls or (BACK, BACK, LEFT, RIGHT))
            length = self.length_of(wall)
            if length < w + 0.1:
                continue
            along = self.style.between(w / 2 + 0.03, length - w / 2 - 0.03)
            pose = self.at_wall(wall, along, d / 2 + gap)
            span = (wall, along - w / 2, along + w / 2, 0.0, h)
            if any(_clash(span, other) for other in self._walls):
                continue
            if self.place(piece, pose):
                self._walls.append(span)
                return pose
        return None

    def hang(self, piece: Piece, low: float, walls: Sequence[str] = ()) -> Pose | None:
        """Put a flat piece on a wall, its lower edge `low` metres up; doors stand at 0."""
        w, d, h = piece.size
        if low + h > self.size[2] - 0.05:
            return None
        for _ in range(TRIES):
            wall = self.style.pick(walls or (BACK, BACK, LEFT, RIGHT))
            length = self.length_of(wall)
            if length < w + 0.1:
                continue
            along = self.style.between(w / 2 + 0.05, length - w / 2 - 0.05)
            span = (wall, along - w / 2, along + w / 2, low, low + h)
            if any(_clash(span, other) for other in self._walls):
                continue
            pose = self.at_wall(wall, along, min(d, 0.04) / 2 if d < 0.1 else d / 2)
            self._walls.append(span)
            if low == 0:  # a door is kept free
                self._floor.append(_footprint(replace(piece, size=(w, 0.6, h)), pose))
            self.add(piece, pose, low)
            return pose
        return None

    def beside(self, piece: Piece, pose: Pose, width: float, gap: float = 0.05) -> Pose | None:
        """Put a piece against the same wall, next to one of `width` that stands at `pose`."""
        w, d, _ = piece.size
        step = (width + w) / 2 + gap
        for sign in (1, -1) if self.style.chance(0.5) else (-1, 1):
            along = pose.along + sign * step
            if w / 2 < along < self.length_of(pose.wall) - w / 2:
                there = self.at_wall(pose.wall, along, d / 2 + 0.02)
                if self.place(piece, there):
                    return there
        return None

    def before(self, piece: Piece, pose: Pose, step: float, flat: bool = False) -> Pose | None:
        """Put a piece `step` metres in front of a pose, looking at it (flat: as a rug)."""
        x = pose.x + step * math.sin(pose.yaw)
        y = pose.y - step * math.cos(pose.yaw)
        turn = 0.0 if flat else math.pi + self.style.between(-0.3, 0.3)
        there = Pose(x, y, pose.yaw + turn)
        return there if self.place(piece, there, flat) else None

    def amid(self, piece: Piece, yaw: float | None = None, flat: bool = False) -> Pose | None:
        """Put a piece somewhere in the room, mostly where the camera looks."""
        style, camera = self.style, self.camera
        for _ in range(TRIES):
            if style.chance(0.85):
                angle = camera.yaw + style.between(-0.4, 0.4) * camera.field
                reach = style.between(1.3, max(1.6, 0.75 * self.size[1]))
                x = camera.place[0] - reach * math.sin(angle)
                y = camera.place[1] + reach * math.cos(angle)
            else:
                x, y = style.between(0, self.size[0]), style.between(0, self.size[1])
            pose = Pose(x, y, style.between(-math.pi, math.pi) if yaw is None else yaw)
            if self.place(piece, pose, flat):
                return pose
        return None

    def on_top(self, piece: Piece, below: Piece, pose: Pose, back: bool = False) -> int:
        """Put a small piece on a larger one, its number; back: towards its far edge."""
        (w, d, _), (pw, pd, _) = below.size, piece.size
        x = self.style.between(-1, 1) * max(0.0, (w - pw) / 2 - 0.02)
        y = self.style.between(-1, 1) * max(0.0, (d - pd) / 2 - 0.02)
        if back:
            x, y = 0.4 * x, max(0.0, (d - pd) / 2 - 0.04)
        cos, sin = math.cos(pose.yaw), math.sin(pose.yaw)
        there = Pose(
            pose.x + cos * x - sin * y,
            pose.y + sin * x + cos * y,
            pose.yaw + self.style.between(-0.2, 0.2),
        )
        return self.add(piece, there, below.top)

    def shine(self, owner: int, power: float) -> None:
        """Let a lamp light the room from the middle of its first part."""
        thing = self.things[owner]
        shade = thing.parts[0]
        x, y, z = thing.place
        place = (x, y, min(z + shade.centre[2], self.size[2] - 0.15))
        tint = np.array(self.style.colour((0.05, 0.14), (0.0, 0.4), (1.0, 1.0)))
        self.lights.append(Light(place, tuple((power * tint).tolist()), 1.8, 0.06, owner))

    def reserve(self, pose: Pose, width: float, low: float, high: float) -> None:
        """Keep a part of the wall behind a pose free of what comes later."""
        half = width / 2
        self._walls.append((pose.wall, pose.along - half, pose.along + half, low, high))

    def length_of(self, wall: str) -> float:
        return self.size[0] if wall in (BACK, FRONT) else self.size[1]

    def at_wall(self, wall: str, along: float, out: float) -> Pose:
        """A pose with its back to a wall, `out` metres from it."""
        w, d, _ = self.size
        x, y = {
            BACK: (along, d - out),
            FRONT: (along, out),
            LEFT: (out, along),
            RIGHT: (w - out, along),
        }[wall]
        return Pose(x, y, _YAWS[wall], wall, along)


def _footprint(piece: Piece, pose: Pose) -> tuple[float, float, float, float]:
    w, d, _ = piece.size
    cos, sin = abs(math.cos(pose.yaw)), abs(math.sin(pose.yaw))
    x, y = (cos * w + sin * d) / 2, (sin * w + cos * d) / 2
    return pose.x - x, pose.x + x, pose.y - y, pose.y + y


def _overlap(one, two) -> bool:
    return one[0] < two[1] and two[0] < one[1] and one[2] < two[3] and two[2] < one[3]


def _clash(one, two) -> bool:
    """Whether two rectangles on walls overlap."""
    return one[0] == two[0] and _overlap(one[1:], two[1:])


# ---- the kinds of room ---------------------------------------------------------------------------


def furnish(
    room: int,
    rng: np.random.Generator,
    looks: np.random.Generator,
    disguise: float = 0.15,
    dark: float = 0.2,
) -> Scene:
    """A random room of a kind (index into `ROOMS`) with its camera, furniture and lights.

    rng, looks, disguise: see `Style`. dark: probability of next to no light that comes from
    everywhere.
    """
    style = Style(rng, looks, disguise)
    wide, deep = {
        "bedroom": ((2.7, 4.2), (3.0, 4.6)), "living room": ((3.2, 5.2), (3.6, 5.6)),
        "kitchen": ((2.4, 4.0), (2.8, 4.6)), "office": ((2.8, 4.8), (3.0, 5.2)),
        "bathroom": ((1.9, 3.0), (2.3, 3.4)), "corridor": ((1.3, 2.1), (4.5, 8.5)),
    }[ROOMS[room]]  # fmt: skip
    size = (style.between(*wide), style.between(*deep), style.between(2.35, 2.9))
    wet = ROOMS[room] in ("bathroom", "kitchen")
    wall = style.draw(style.pick(("tile", "tile", "paint") if wet else ("paint", "paint", "paper")))
    accent = style.draw(style.pick(("paint", "paper"))) if style.chance(0.25) else wall
    floor = style.draw("tile" if wet and style.chance(0.6) else "ground", warmth=-0.8)
    ceiling = style.draw("white" if style.chance(0.8) else "paint", warmth=0.8)
    outer = style.between(-2, 0)  # an outer wall is colder
    faces = (wall, wall, wall, replace(accent, warmth=outer), floor, ceiling)
    layout = Layout(style, size, place_camera(style, size))
    _FURNISHERS[ROOMS[room]](layout)
    _finish(layout)
    lights = sorted(layout.lights, key=lambda light: -max(light.colour))[:2]
    level = style.between(0.05, 0.12) if looks.random() < dark else style.between(0.2, 0.5)
    tint = np.array(style.colour(_ANY, (0.0, 0.3), (1.0, 1.0)))
    return Scene(
        size, faces, layout.camera, tuple(layout.things), tuple(lights),
        tuple((level * tint).tolist()),
    )  # fmt: skip


def place_camera(style: Style, size: tuple[float, float, float]) -> Camera:
    """A camera near the front wall that looks into the room."""
    x, y = style.between(0.25, 0.75) * size[0], style.between(0.15, 0.45)
    target = style.between(0.15, 0.85) * size[0]
    return Camera(
        place=(x, y, style.between(1.05, 1.85)),
        yaw=-math.atan2(target - x, 0.8 * size[1] - y),
        pitch=math.radians(style.between(-20, -2)),
        roll=math.radians(style.between(-2.5, 2.5)),
        field=math.radians(style.between(58, 80)),
    )


def _furnish_bedroom(room: Layout) -> None:
    s = room.style
    _add_windows(room, 0.8)
    _add_doors(room, 0.4)
    bed = make_bed(s)
    if pose := room.against(bed):
        for _ in range(2):
            stand = make_cabinet(s, "nightstand")
            if s.chance(0.7) and (there := room.beside(stand, pose, bed.size[0])):
                _add_lamp(room, "table", 0.8, on=(stand, there))
        if s.chance(0.25):
            _add_sitter(room, pose, bed, forward=0.7)
        if s.chance(0.5):
            room.before(make_rug(s, bed.size[0] + 0.6, 1.2), pose, 1.1, flat=True)
    _try_each(room, [(0.8, "wardrobe"), (0.5, "drawers"), (0.25, "shelf")])
    if s.chance(0.3):
        _add_desk(room)
    if s.chance(0.4):
        _add_chair(room)


def _furnish_living(room: Layout) -> None:
    s = room.style
    _add_windows(room, 0.9)
    _add_doors(room, 0.3)
    sofa = make_sofa(s, s.pick((2, 3)))
    if pose := room.against(sofa):
        if s.chance(0.5):
            room.before(make_rug(s, 2.2, 1.5), pose, 1.2, flat=True)
        table = make_table(s, "coffee")
        if s.chance(0.8) and (there := room.before(table, pose, 1.2)):
            _add_clutter(room, table, there, 2)
        if s.chance(0.45):
            _add_sitter(room, pose, sofa)
    board = make_cabinet(s, "sideboard")
    if s.chance(0.7) and (there := room.against(board)):
        room.on_top(make_screen(s, s.between(0.7, 1.1)), board, there, back=True)
    _try_each(room, [(0.6, "shelf"), (0.2, "drawers")])
    _add_lamp(room, "floor", 0.75)
    for _ in range(2):
        if s.chance(0.45):
            room.amid(make_sofa(s, 1))
    if s.chance(0.5):
        room.against(make_plant(s))
    if s.chance(0.35):
        _add_table_group(room)


def _furnish_kitchen(room: Layout) -> None:
    s = room.style
    counter = make_cabinet(s, "counter")
    if pose := room.against(counter):
        _add_clutter(room, counter, pose, 3)
        if s.chance(0.75):
            w, d, _ = counter.size
            unit = make_cabinet(s, "wall unit")
            out = d / 2 - unit.size[1] / 2
            x, y = pose.x - out * math.sin(pose.yaw), pose.y + out * math.cos(pose.yaw)
            if 1.45 + unit.size[2] < room.size[2] and unit.size[0] <= w + 0.2:
                room.add(unit, replace(pose, x=x, y=y), 1.45)
                room.reserve(pose, w, 0.0, 2.2)
        if s.chance(0.7):
            room.beside(make_cabinet(s, "fridge"), pose, counter.size[0])
    if s.chance(0.5) and (there := room.against(again := make_cabinet(s, "counter"))):
        _add_clutter(room, again, there, 2)
    _add_windows(room, 0.7)
    _add_doors(room, 0.4)
    if s.chance(0.75):
        _add_table_group(room)
    if s.chance(0.4):
        _add_chair(room)


def _furnish_office(room: Layout) -> None:
    s = room.style
    _add_windows(room, 0.8)
    _add_doors(room, 0.4)
    for _ in range(1 + int(s.chance(0.6))):
        _add_desk(room)
    _try_each(room, [(0.7, "shelf"), (0.5, "drawers"), (0.3, "wardrobe")])
    if s.chance(0.3):
        _add_table_group(room)
    if s.chance(0.4):
        _add_chair(room, office=True)
    if s.chance(0.4):
        room.against(make_plant(s))
    _add_lamp(room, "floor", 0.3)


def _furnish_bathroom(room: Layout) -> None:
    s = room.style
    if s.chance(0.7):
        room.against(make_bath(s))
    sink = make_sink(s)
    if pose := room.against(sink):
        mirror = make_mirror(s)
        at = room.at_wall(pose.wall, pose.along, 0.01)
        room.add(mirror, at, 1.15)
        room.reserve(pose, mirror.size[0], 0.9, 2.1)
    if s.chance(0.8):
        room.against(make_toilet(s))
    _try_each(room, [(0.4, "drawers"), (0.3, "shelf"), (0.3, "nightstand")])
    _add_windows(room, 0.6)
    _add_doors(room, 0.5)
    if s.chance(0.5):
        room.amid(make_rug(s, s.between(0.7, 1.0), s.between(0.5, 0.8)), flat=True)
    if s.chance(0.2):
        _add_chair(room)


def _furnish_corridor(room: Layout) -> None:
    s = room.style
    if s.chance(0.6):
        room.hang(make_door(s), 0.0, (BACK,))
    elif s.chance(0.7):
        _add_windows(room, 1.0, (BACK,))
    for _ in range(3):
        _add_doors(room, 0.75, (LEFT, RIGHT))
    if s.chance(0.4):
        rug = make_rug(s, 0.6 * room.size[0], 0.6 * room.size[1])
        room.place(rug, Pose(room.size[0] / 2, 0.55 * room.size[1], 0.0), flat=True)
    _try_each(room, [(0.5, "shelf"), (0.5, "drawers"), (0.3, "sideboard")], (LEFT, RIGHT))
    for _ in range(2):
        if s.chance(0.4):
            room.against(make_chair(s), (LEFT, RIGHT))
    if s.chance(0.4):
        room.against(make_plant(s), (LEFT, RIGHT, BACK))
    _add_lamp(room, "floor", 0.2)
    for share in (0.35, 0.65):
        _add_lamp(room, "ceiling", 0.7, at=(room.size[0] / 2, share * room.size[1]))


_FURNISHERS: dict[str, Callable[[Layout], None]] = {
    "bedroom": _furnish_bedroom,
    "living room": _furnish_living,
    "kitchen": _furnish_kitchen,
    "office": _furnish_office,
    "bathroom": _furnish_bathroom,
    "corridor": _furnish_corridor,
}


def _finish(room: Layout) -> None:
    """What any room may have: people, pictures, radiators, ceiling lamps and things lying about."""
    s = room.style
    if s.chance(0.45):
        room.against(make_radiator(s), gap=0.01)
    for chance in (0.85, 0.6, 0.4):
        if s.chance(chance):
            room.hang(make_picture(s), s.between(1.1, 1.5))
    for chance in (0.4, 0.1):
        if s.chance(chance):
            room.amid(make_person(s, "standing"))
    for _ in range(3):
        if s.chance(0.4):
            room.amid(make_clutter(s, large=True))
    low = room.size[2]
    middle = (room.size[0] * s.between(0.35, 0.65), room.size[1] * s.between(0.45, 0.8))
    if not any(thing.kind == LAMP and thing.place[2] > 1.2 for thing in room.things):
        _add_lamp(room, "pendant" if low > 2.4 and s.chance(0.6) else "ceiling", 0.9, at=middle)
    if not room.lights:  # a lamp behind the camera
        place = (room.size[0] / 2, 0.3, room.size[2] - 0.3)
        tint = np.array(s.colour((0.05, 0.15), (0.0, 0.35), (1.0, 1.0)))
        room.lights.append(Light(place, tuple((s.between(0.8, 2.0) * tint).tolist()), 2.5, 0.08))


def _add_windows(room: Layout, chance: float, walls: Sequence[str] = ()) -> None:
    s = room.style
    night = s.chance(NIGHT)
    for _ in range(2):
        if s.chance(chance):
            w, h = s.between(0.7, 1.7), s.between(0.8, 1.4)
            w = min(w, 0.7 * room.size[0])
            low = s.between(0.75, 1.0)
            piece = make_window(s, w, h, night)
            pose = room.hang(piece, low, walls)
            if pose is None:
                continue
            if s.chance(0.35):
                for sign in (-1, 1):
                    along = pose.along + sign * (w / 2 + 0.1)
                    if 0.25 < along < room.length_of(pose.wall) - 0.25:
                        curtain = make_curtain(s, min(h + low, room.size[2] - 0.2))
                        room.add(curtain, room.at_wall(pose.wall, along, 0.09), 0.02)
            if not night:
                x = pose.x + 0.25 * math.sin(pose.yaw)
                y = pose.y - 0.25 * math.cos(pose.yaw)
                tint = np.array(s.colour((0.5, 0.66), (0.0, 0.3), (1.0, 1.0)))
                power = s.between(1.0, 3.0)
                light = Light((x, y, low + 0.7 * h), tuple((power * tint).tolist()), 2.5, 0.2)
                room.lights.append(light)
        chance *= 0.4


def _add_doors(room: Layout, chance: float, walls: Sequence[str] = ()) -> None:
    if room.style.chance(chance):
        room.hang(make_door(room.style), 0.0, walls)


def _add_lamp(
    room: Layout,
    use: str,
    chance: float,
    on: tuple[Piece, Pose] | None = None,
    at: tuple[float, float] | None = None,
) -> None:
    s = room.style
    if not s.chance(chance):
        return
    lit = s.chance(0.7)
    lamp = make_lamp(s, use, lit)
    if on is not None:
        number = room.on_top(lamp, *on)
    elif at is not None:
        number = room.add(lamp, Pose(*at, 0.0), room.size[2] - lamp.size[2])
    elif room.against(lamp, gap=0.1) is not None:
        number = len(room.things) - 1
    else:
        return
    if lit:
        room.shine(number, s.between(1.0, 2.5) * (0.4 if use == "table" else 1.0))


def _add_clutter(room: Layout, below: Piece, pose: Pose, most: int) -> None:
    for _ in range(int(room.style.rng.integers(0, most + 1))):
        room.on_top(make_clutter(room.style, large=False), below, pose)


def _add_sitter(room: Layout, pose: Pose, seat: Piece, forward: float = 0.0) -> None:
    """A person on a chair, a sofa or, sideways, a bed."""
    w, d, _ = seat.size
    x = room.style.between(-0.5, 0.5) * max(0.0, w - 0.75)
    y = d / 2 - 0.38 if not forward else -forward
    cos, sin = math.cos(pose.yaw), math.sin(pose.yaw)
    there = Pose(pose.x + cos * x - sin * y, pose.y + sin * x + cos * y, pose.yaw)
    room.add(make_person(room.style, "sitting"), there, seat.top)


def _add_chair(room: Layout, office: bool = False) -> None:
    room.amid(make_chair(room.style, office))


def _add_desk(room: Layout) -> None:
    s = room.style
    desk = make_table(s, "desk")
    pose = room.against(desk)
    if pose is None:
        return
    if s.chance(0.7):
        room.on_top(make_screen(s, s.between(0.4, 0.65)), desk, pose, back=True)
    _add_clutter(room, desk, pose, 2)
    if s.chance(0.35):
        _add_lamp(room, "table", 1.0, on=(desk, pose))
    chair = make_chair(s, office=s.chance(0.7))
    there = room.before(chair, pose, desk.size[1] / 2 + s.between(0.3, 0.5))
    if there and s.chance(0.35):
        _add_sitter(room, there, chair)


def _add_table_group(room: Layout) -> None:
    """A table in the room with chairs around it, and a person on one of them."""
    s = room.style
    table = make_table(s, "dining")
    pose = room.amid(table, yaw=s.pick((0.0, math.pi / 2)) + s.between(-0.15, 0.15))
    if pose is None:
        return
    _add_clutter(room, table, pose, 3)
    look = make_chair(s)
    for turn in range(4):
        if not s.chance(0.65):
            continue
        step = table.size[1 - turn % 2] / 2 + s.between(0.25, 0.4)
        there = room.before(look, replace(pose, yaw=pose.yaw + turn * math.pi / 2), step)
        if there and s.chance(0.3):
            _add_sitter(room, there, look)


def _try_each(room: Layout, wanted: Sequence[tuple[float, str]], walls: Sequence[str] = ()) -> None:
    """Cabinets against the walls, each with its chance, some with things on top."""
    s = room.style
    for chance, use in wanted:
        piece = make_cabinet(s, use)
        if s.chance(chance) and (pose := room.against(piece, walls)) and piece.top < 1.3:
            _add_clutter(room, piece, pose, 2)
            if s.chance(0.3):
                _add_lamp(room, "table", 1.0, on=(piece, pose))
