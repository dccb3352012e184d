"""Ray casting of small indoor scenes with NumPy: boxes, cylinders and ellipsoids in a room.

The world is in metres, x and y along the walls of the room from one of its corners, z upwards. A
ray is an origin and a direction; directions of the camera's rays have length 1 along the optical
axis, so that the ray's parameter at a hit is the depth that a depth camera reports. Every pixel is
seen by four rays, which give anti-aliased colour and tell where two surfaces meet in one pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SUBPIXELS = ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25))  # row, column of a ray
FACES = 6  # of the room: x low, x high, y low, y high, floor, ceiling
WALLS, FLOOR, CEILING = range(3)  # surfaces that are no things; thing i is surface 3 + i
_FACE_SURFACES = np.array([WALLS, WALLS, WALLS, WALLS, FLOOR, CEILING])
_LIFT = 0.004  # metres that a shadow ray starts above its surface, so as not to meet it
_TINY = 1e-9


@dataclass(frozen=True)
class Material:
    """What a surface looks like to each of the sensors.

    first, second: linear RGB, mixed by `pattern` (a name in `PATTERNS`) with cells of `scale`
    metres; seed: of its random parts. glow: light that it gives off, times its colour. warmth:
    kelvin above the room's air. infrared: reflectance at the depth sensor's wavelength. gloss:
    the part of the depth sensor's light that is mirrored away, 0 to 1.
    """

    first: tuple[float, float, float] = (0.5, 0.5, 0.5)
    second: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pattern: str = "plain"
    scale: float = 0.1
    seed: int = 0
    glow: float = 0.0
    warmth: float = 0.0
    infrared: float = 0.5
    gloss: float = 0.0


@dataclass(frozen=True)
class Part:
    """One solid in its thing's coordinates: "box", "cylinder" (along `axis`) or "ellipsoid".

    centre, half: its middle, and half its extent along x, y and z, in metres.
    """

    shape: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    material: Material
    axis: int = 2


@dataclass(frozen=True)
class Thing:
    """An object of a class, made of parts, turned by `yaw` radians and put at `place`.

    flat: so near to a wall or the floor that its shadow is not worth its time.
    """

    kind: int
    parts: tuple[Part, ...]
    place: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    flat: bool = False

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Middle and half extent (3, 1) of the box around it, in its own coordinates."""
        spans = np.array([[part.centre, part.half] for part in self.parts], np.float32)
        low = (spans[:, 0] - spans[:, 1]).min(axis=0)[:, None]
        high = (spans[:, 0] + spans[:, 1]).max(axis=0)[:, None]
        return (low + high) / 2, (high - low) / 2 + np.float32(1e-4)


@dataclass(frozen=True)
class Light:
    """A lamp at `place`, of linear RGB power `colour`; at the distance `reach` half is left.

    radius: of the area it shines from, for soft shadows. owner: the thing that it belongs to,
    which casts no shadow of it, or -1.
    """

    place: tuple[float, float, float]
    colour: tuple[float, float, float]
    reach: float = 2.0
    radius: float = 0.0
    owner: int = -1


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. yaw: radians from +y towards -x; pitch: upwards; roll: clockwise as seen
    in the picture; field: the angle of view across the picture, both ways, in radians."""

    place: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    field: float = 1.0

    def axes(self) -> np.ndarray:
        """(3, 3): the unit vectors right, down and forward as rows."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        right = np.array([cos, sin, 0.0])
        level = np.array([-sin, cos, 0.0])
        forward = np.cos(self.pitch) * level + np.array([0, 0, np.sin(self.pitch)])
        down = np.cross(forward, right)
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        return np.stack([cos * right - sin * down, sin * right + cos * down, forward])

    def project(self, points: np.ndarray, side: int) -> np.ndarray:
        """World points (N, 3) → (N, 3): column and row in pixels, from the picture's upper left
        corner, and depth."""
        x, y, depth = self.axes() @ (np.asarray(points, float) - self.place).T
        half = np.tan(self.field / 2)
        return np.stack(
            [(x / depth / half + 1) * side / 2, (y / depth / half + 1) * side / 2, depth], axis=1
        )

    def rays(self, side: int) -> np.ndarray:
        """(3, 4, side, side) float32: directions of the four rays of every pixel."""
        half = np.tan(self.field / 2)
        middles = np.arange(side) + 0.5
        offsets = np.array(SUBPIXELS)
        rows = ((middles + offsets[:, :1]) * 2 / side - 1) * half  # (4, side)
        columns = ((middles + offsets[:, 1:]) * 2 / side - 1) * half
        right, down, forward = self.axes()[:, :, None, None, None]
        return (forward + columns[:, None, :] * right + rows[:, :, None] * down).astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """A room of `size` (x, y, z) metres, the materials of its six faces, what stands in it, its
    lights and the light that comes from everywhere, and who looks."""

    size: tuple[float, float, float]
    faces: tuple[Material, ...]
    camera: Camera
    things: tuple[Thing, ...] = ()
    lights: tuple[Light, ...] = ()
    ambient: tuple[float, float, float] = (0.3, 0.3, 0.3)


@dataclass(frozen=True)
class Hits:
    """What every ray of a picture met first; arrays are (4, side, side).

    depth: metres along the optical axis, float32. part: the room's face (0 to 5) or 6 + the number
    of the part, counted through all things. parts: (P,) surface of each of those numbers.
    """

    directions: np.ndarray
    depth: np.ndarray
    part: np.ndarray
    parts: np.ndarray

    @property
    def surface(self) -> np.ndarray:
        """0 walls, 1 floor, 2 ceiling, 3 + i the scene's thing i."""
        return self.parts[self.part]


@dataclass(frozen=True)
class View:
    """A scene in pixels, without any sensor's noise; arrays are (side, side).

    surface: what most rays of the pixel meet, the nearest of equals; depth: of those rays, in
    metres. kinds: (4, side, side) the rays' classes. colour: (side, side, 3) linear RGB, mean of
    the rays. warmth: kelvin above the air, mean of the rays. infrared, gloss: see `Material`.
    facing: cosine between the view and the surface.
    """

    surface: np.ndarray
    depth: np.ndarray
    kinds: np.ndarray
    colour: np.ndarray
    warmth: np.ndarray
    infrared: np.ndarray
    gloss: np.ndarray
    facing: np.ndarray


def render(scene: Scene, side: int, stuff: tuple[int, int, int], rng: np.random.Generator) -> View:
    """Draw a scene. stuff: the classes of walls, floor and ceiling; rng: where in an extended
    light each of the four rays looks for it."""
    hits = cast(scene, side)
    shapes = (len(SUBPIXELS), side, side)
    points, normals, albedo = shade(scene, hits)
    colour = albedo * _illuminate(scene, points, normals, rng)
    materials = [*scene.faces, *(part.material for thing in scene.things for part in thing.parts)]
    part = hits.part.ravel()
    colour += albedo * _lookup([m.glow for m in materials], part)
    directions = hits.directions.reshape(3, -1)
    length = np.sqrt((directions * directions).sum(axis=0))
    facing = np.abs((directions * normals).sum(axis=0)) / length
    chosen, mean_depth = _choose_rays(hits)

    def pick(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values.reshape(shapes), chosen[None], axis=0)[0]

    kinds = np.array([*stuff, *(thing.kind for thing in scene.things)], np.uint8)
    return View(
        surface=pick(hits.surface),
        depth=mean_depth,
        kinds=kinds[hits.surface],
        colour=colour.reshape(3, *shapes).mean(axis=1).transpose(1, 2, 0),
        warmth=_lookup([m.warmth for m in materials], part).reshape(shapes).mean(axis=0),
        infrared=pick(_lookup([m.infrared for m in materials], part)),
        gloss=pick(_lookup([m.gloss for m in materials], part)),
        facing=pick(facing),
    )


def cast(scene: Scene, side: int) -> Hits:
    """Follow every ray of the camera to what it meets first."""
    directions = scene.camera.rays(side)
    flat = directions.reshape(3, -1)
    origin = _column(scene.camera.place)
    depth, part = _meet_room(scene.size, origin, flat)
    squared = (flat * flat).sum(axis=0)
    number, surfaces = FACES, [*_FACE_SURFACES]
    for index, thing in enumerate(scene.things):
        near = _find_near(thing, origin, flat, squared)
        for rays, offset, reached in _meet_thing(thing, origin, flat, near):
            closer = reached < depth[rays]
            rays = rays[closer]
            depth[rays] = reached[closer]
            part[rays] = number + offset
        number += len(thing.parts)
        surfaces += [3 + index] * len(thing.parts)
    shape = directions.shape[1:]
    return Hits(directions, depth.reshape(shape), part.reshape(shape), np.array(surfaces, np.int16))


def shade(scene: Scene, hits: Hits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, unit normals and linear RGB of what every ray met, each (3, rays) float32."""
    points = np.array(scene.camera.place, np.float32)[:, None] + hits.directions.reshape(
        3, -1
    ) * hits.depth.reshape(-1)
    order = np.argsort(hits.part.ravel(), kind="stable")
    counts = np.bincount(hits.part.ravel(), minlength=len(hits.parts))
    ends = np.cumsum(counts)
    normals, albedo = np.empty_like(points), np.empty_like(points)
    inside = [-1.0 if face % 2 else 1.0 for face in range(FACES)]
    for face in np.flatnonzero(counts[:FACES]):
        rays = order[ends[face] - counts[face] : ends[face]]
        axis = int(face) // 2
        normals[:, rays] = 0
        normals[axis, rays] = inside[face]
        u, v = _flatten(points[:, rays], axis)
        albedo[:, rays] = _paint(scene.faces[face], u, v)
    number = FACES
    for thing in scene.things:
        for part in thing.parts:
            if counts[number]:
                rays = order[ends[number] - counts[number] : ends[number]]
                local = _turn(points[:, rays] - _column(thing.place), -thing.yaw)
                normal, u, v = _surface_of(part, local - _column(part.centre))
                normals[:, rays] = _turn(normal, thing.yaw)
                albedo[:, rays] = _paint(part.material, u, v)
            number += 1
    return points, normals, albedo


def find_shadow(
    scene: Scene, light: Light, points: np.ndarray, shifts: np.ndarray | None = None
) -> np.ndarray:
    """(N,) whether a thing other than the light's own stands between a light and points (3, N).

    shifts: (3, N) from the light's middle to where each point looks for it, at most its radius
    along each axis.
    """
    middle = _column(light.place)
    towards = points - middle
    squared = (towards * towards).sum(axis=0)
    origin, exact = middle, towards
    if shifts is not None:
        origin, exact = middle + shifts, towards - shifts
    dark = np.zeros(points.shape[1], bool)
    for index, thing in enumerate(scene.things):
        if index == light.owner or thing.flat:
            continue
        # No ray to a shifted place is further from the ray to the middle than the shift.
        near = _find_near(thing, middle, towards, squared, slack=2 * light.radius)
        near = near[~dark[near]]
        for rays, _, reached in _meet_thing(thing, origin, exact, near):
            dark[rays[reached < 1]] = True
    return dark


def _illuminate(
    scene: Scene, points: np.ndarray, normals: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(3, rays) irradiance: the ambient light, stronger from above, and every light with its
    fall-off and shadow."""
    total = _column(scene.ambient) * (0.8 + 0.2 * normals[2])
    per_ray = points.shape[1] // len(SUBPIXELS)
    lifted = points + _LIFT * normals
    for light in scene.lights:
        jitter = light.radius * rng.uniform(-1, 1, (3, len(SUBPIXELS)))
        shifts = np.repeat(jitter.astype(np.float32), per_ray, axis=1)
        away = lifted - _column(light.place) - shifts
        squared = (away * away).sum(axis=0)
        lambert = np.maximum(-(away * normals).sum(axis=0), 0) / np.sqrt(squared + _TINY)
        strength = lambert / (1 + squared / light.reach**2)
        lit = np.flatnonzero(strength > 1e-3)
        dark = find_shadow(scene, light, lifted[:, lit], shifts[:, lit])
        strength[lit[dark]] = 0
        total += _column(light.colour) * strength
    return total


def _choose_rays(hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel the ray that stands for it, and the mean depth of the rays on its surface:
    the surface that most rays meet, the nearest of equals."""
    surface, depth = hits.surface, hits.depth
    same = surface[:, None] == surface[None]  # (4, 4, side, side)
    votes = same.sum(axis=1)
    chosen = np.argmax(votes - depth / (1 + depth.max()), axis=0)
    members = np.take_along_axis(same, chosen[None, None], axis=0)[0]
    return chosen, (depth * members).sum(axis=0) / members.sum(axis=0)


def _meet_room(
    size: tuple[float, float, float], origin: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameter and face (0 to 5) at which rays from inside leave the room."""
    ahead = directions > 0
    target = np.where(ahead, _column(size), np.float32(0))
    reached = (target - origin) / _guard(directions)
    axis = np.argmin(reached, axis=0)
    face = (2 * axis + np.take_along_axis(ahead, axis[None], axis=0)[0]).astype(np.int16)
    return np.take_along_axis(reached, axis[None], axis=0)[0], face


def _find_near(
    thing: Thing,
    origin: np.ndarray,
    directions: np.ndarray,
    squared: np.ndarray,
    slack: float = 0.0,
) -> np.ndarray:
    """Numbers of the rays from one origin that pass the sphere around a thing, which is cheap;
    squared: their directions' squared lengths; slack: added to the sphere's radius, in metres."""
    middle, half = thing.bounds
    x, y, z = (_turn(middle, thing.yaw) + _column(thing.place) - origin)[:, 0]
    radius = float(np.sqrt((half * half).sum())) + slack
    along = directions[0] * x
    along += directions[1] * y
    along += directions[2] * z
    distance = float(x * x + y * y + z * z) - radius**2
    if distance <= 0:  # the origin is inside
        return np.arange(directions.shape[1])
    return np.flatnonzero((along > 0) & (along * along > np.float32(distance) * squared))


def _meet_thing(
    thing: Thing, origin: np.ndarray, directions: np.ndarray, rays: np.ndarray
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Which of the numbered rays, from one origin (3, 1) or one each (3, N), meet a thing: for
    each part that is met the rays' numbers, the part's number and the ray's parameter."""
    middle, half = thing.bounds
    if origin.shape[1] > 1:
        origin = origin[:, rays]
    start = _turn(origin - _column(thing.place), -thing.yaw)
    along = _guard(_turn(directions[:, rays], -thing.yaw))
    near, far = _meet_box(start - middle, along, half)
    inside = np.flatnonzero((near < far) & (far > 0))
    if not len(inside):
        return
    rays, along = rays[inside], along[:, inside]
    if start.shape[1] > 1:
        start = start[:, inside]
    for number, part in enumerate(thing.parts):
        meet = _MEETINGS[part.shape]
        shift, half = start - _column(part.centre), _column(part.half)
        near, far = meet(shift, along, half, part.axis)
        met = np.flatnonzero((near < far) & (near > 0))
        if len(met):
            yield rays[met], number, near[met]


def _meet_box(origin: np.ndarray, along: np.ndarray, half: np.ndarray, axis: int = 2):
    """Parameters at which rays enter and leave an axis-aligned box about 0: slabs."""
    near, far = -np.inf, np.inf
    for k in range(3):  # one row at a time stays in the cache
        inverse = 1 / along[k]
        middle, reach = -origin[k] * inverse, np.abs(inverse) * half[k]
        near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
    return near, far


def _meet_cylinder(origin: np.ndarray, along: np.ndarray, half: np.ndarray, axis: int = 2):
    """The same for a cylinder of elliptic section: between two caps and inside the mantle."""
    origin, along = origin / half, along / half
    one, two = (k for k in range(3) if k != axis)
    near, far = _solve(origin[[one, two]], along[[one, two]])
    inverse = 1 / along[axis]
    middle, reach = -origin[axis] * inverse, np.abs(inverse)
    return np.maximum(near, middle - reach), np.minimum(far, middle + reach)


def _meet_ellipsoid(origin: np.ndarray, along: np.ndarray, half: np.ndarray, axis: int = 2):
    return _solve(origin / half, along / half)


def _solve(origin: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where |origin + t·along| = 1; (1, 0) for a ray that misses, an interval without content."""
    a = (along * along).sum(axis=0)
    b = (origin * along).sum(axis=0)
    c = (origin * origin).sum(axis=0) - 1
    inner = b * b - a * c
    met = inner > 0
    root = np.sqrt(np.where(met, inner, 0))
    return np.where(met, (-b - root) / a, 1), np.where(met, (-b + root) / a, 0)


_MEETINGS = {"box": _meet_box, "cylinder": _meet_cylinder, "ellipsoid": _meet_ellipsoid}


def _surface_of(part: Part, local: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit normals (3, N) of points on a part, about its centre, and their texture coordinates."""
    half = _column(part.half)
    unit = local / half
    normal = np.zeros_like(local)
    columns = np.arange(local.shape[1])
    if part.shape == "box":
        axis = np.argmax(np.abs(unit), axis=0)
        normal[axis, columns] = np.sign(unit[axis, columns])
        u = np.where(axis == 0, local[1], local[0])
        v = np.where(axis == 2, local[1], local[2])
        return normal, u, v
    if part.shape == "cylinder":
        one, two = (k for k in range(3) if k != part.axis)
        mantle = unit[one] ** 2 + unit[two] ** 2
        cap = np.abs(unit[part.axis]) ** 2 > mantle
        normal[one] = np.where(cap, 0, unit[one] / half[one])
        normal[two] = np.where(cap, 0, unit[two] / half[two])
        normal[part.axis] = np.where(cap, np.sign(unit[part.axis]), 0)
        turn = np.arctan2(unit[two], unit[one]) * np.sqrt(half[one] * half[two])
        u, v = np.where(cap, local[one], turn), np.where(cap, local[two], local[part.axis])
    else:
        normal = unit / half
        u, v = np.arctan2(unit[1], unit[0]) * np.sqrt(half[0] * half[1]), local[2]
    return normal / np.sqrt((normal * normal).sum(axis=0) + _TINY), u, v


def _flatten(points: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    one, two = (k for k in range(3) if k != axis)
    return points[one], points[two]


def _paint(material: Material, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(3, N) linear RGB of a material at texture coordinates in metres."""
    first, second = _column(material.first), _column(material.second)
    if material.pattern == "plain":
        return np.broadcast_to(first, (3, len(u)))
    tone = PATTERNS[material.pattern](u / material.scale, v / material.scale, material.seed)
    return first + (second - first) * tone.astype(np.float32)


def _draw_noise(u: np.ndarray, v: np.ndarray, seed: int) -> np.ndarray:
    """Value noise in 0 to 1: random numbers on a grid of cell 1, bilinear in between."""
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fu, fv = u - i, v - j
    top = _hash(i, j, seed) * (1 - fu) + _hash(i + 1, j, seed) * fu
    bottom = _hash(i, j + 1, seed) * (1 - fu) + _hash(i + 1, j + 1, seed) * fu
    return top * (1 - fv) + bottom * fv


def _hash(i: np.ndarray, j: np.ndarray, seed: int) -> np.ndarray:
    """A number in 0 to 1 for every cell of a grid; odd multipliers mix the bits of 32."""
    mask = 0xFFFFFFFF
    h = (i * 0x9E3779B1 + j * 0x85EBCA77 + (seed & 0xFFFF) * 0xC2B2AE3D) & mask
    h = ((h ^ (h >> 15)) * 0x2C1B3C6D) & mask
    h = ((h ^ (h >> 12)) * 0x297A2D39) & mask
    return (h ^ (h >> 15)).astype(np.float32) / mask


def _cells(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)


def _stripes(u, v, seed):
    return (u % 1 < 0.5) if seed % 2 else (v % 1 < 0.5)


def _checks(u, v, seed):
    return (np.floor(u) + np.floor(v)) % 2


def _tiles(u, v, seed):
    i, j = _cells(u, v)
    joint = (u % 1 < 0.1) | (v % 1 < 0.1)
    return np.where(joint, 1.0, 0.25 * _hash(i, j, seed))


def _planks(u, v, seed):
    board = np.floor(v).astype(np.int64)
    i = np.floor(u / 5 + 0.37 * board).astype(np.int64)
    tone = 0.6 * _hash(i, board, seed) + 0.3 * _draw_noise(0.6 * u, 4 * v, seed)
    return np.where(v % 1 < 0.1, 1.0, tone)


def _grain(u, v, seed):
    along, across = (u, v) if seed % 2 else (v, u)
    return 0.5 + 0.5 * np.sin(6.3 * (across + 1.5 * _draw_noise(0.3 * along, 0.8 * across, seed)))


def _dots(u, v, seed):
    return (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1


def _mottled(u, v, seed):
    return 0.65 * _draw_noise(u, v, seed) + 0.35 * _draw_noise(2.3 * u, 2.3 * v, seed + 1)


def _blocks(u, v, seed):
    i, j = _cells(u + 0.5 * _hash(*_cells(0 * u, v), seed), v)
    return 0.75 * _hash(i, j, seed) + 0.25 * _draw_noise(2 * u, 2 * v, seed)


def _spines(u, v, seed):
    i, j = _cells(u, 0 * v)
    return np.where(u % 1 < 0.12, 0.0, _hash(i, j, seed))


def _horizon(u, v, seed):
    edge = 0.8 * _draw_noise(1.7 * u, 0 * v, seed) - 0.5
    return np.where(v < edge, 0.7 + 0.3 * _draw_noise(4 * u, 4 * v, seed), 0.15 - 0.1 * v)


# Name → (u, v in cells, seed) → tone, 0 the first colour to 1 the second.
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "plain": lambda u, v, seed: 0 * u,
    "stripes": _stripes,
    "checks": _checks,
    "tiles": _tiles,
    "planks": _planks,
    "grain": _grain,
    "dots": _dots,
    "mottled": _mottled,
    "blocks": _blocks,
    "spines": _spines,
    "horizon": _horizon,
}


def _turn(vectors: np.ndarray, yaw: float) -> np.ndarray:
    """(3, N) turned about z, anticlockwise from above."""
    if yaw == 0:
        return vectors
    cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    turned = np.empty_like(vectors)
    turned[0] = cos * vectors[0] - sin * vectors[1]
    turned[1] = sin * vectors[0] + cos * vectors[1]
    turned[2] = vectors[2]
    return turned


def _guard(directions: np.ndarray) -> np.ndarray:
    """Directions without zeros, which the slabs divide by."""
    return np.where(np.abs(directions) < _TINY, np.float32(_TINY), directions)


def _lookup(values: list[float], part: np.ndarray) -> np.ndarray:
    return np.array(values, np.float32)[part]


def _column(values) -> np.ndarray:
    return np.asarray(values, np.float32)[:, None]
