"""Energies of pairs of maps, group of frequencies by group, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress, pairwise

import numpy as np
import torch

from fdlab.core.errors import UserError
from fdlab.models.output import ModelOutput
from fdlab.spectral.divergence import (
    Rings,
    find_rings,
    has_low_band,
    list_coefficients,
    measure_divergence,
    pool_energies,
    predict_divergence,
    sum_energies,
    transform,
)

BANDS = ("low", "high")  # the first two groups of `Rings`
PAIR, SCENE, EVENT = "pair", "scene", "event"  # whose second map: its own, or another event's
BATCH = 32  # events of one forward pass, among which mismatched pairs are made
FEWEST = 6  # events, so that for each there is one outside its group
MOST = 2048  # numbers of a band that are kept of each event
Maps = dict[str, torch.Tensor]  # block → (b, C, h, w)
Look = Callable[[np.ndarray], dict[str, Maps]]  # places of some events → source → its maps
Key = tuple[str, str]
Compared = dict[Key, tuple[str, str, str]]  # comparison → its two sources, and whose second map


@dataclass(frozen=True)
class Chunk:
    """Events that are looked at together. places: (b,) of them in the split. partners: PAIR, SCENE
    and EVENT → (b,) whose second map stands beside each one's first, as places in the chunk."""

    places: np.ndarray
    partners: dict[str, np.ndarray]


def pair_events(labels: np.ndarray, rng: np.random.Generator, batch: int = BATCH) -> list[Chunk]:
    """Split n events at random into chunks of about `batch`, each with derangements of its own.

    labels: (n,) the kind of scene. SCENE: another event of the same kind, and of a kind with a
    single event any other; EVENT: any other event but that one. Both are drawn within a chunk, so
    that no map is computed twice; the chunks are random, and so is who is met.
    """
    if len(labels) < FEWEST:
        raise UserError(f"{len(labels)} test pairs: expected {FEWEST} or more to mismatch them")
    groups = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        # Two by two; of an odd number the last three.
        groups += np.split(members, np.arange(2, len(members) - 1, 2))
    groups = [groups[i] for i in rng.permutation(len(groups))]
    sizes = np.array([len(group) for group in groups])
    number = (np.cumsum(sizes) - sizes) // batch  # of the chunk that a group begins in
    if sizes[number == number[-1]].sum() < FEWEST:
        number[number == number[-1]] = max(number[-1] - 1, 0)
    chunks = []
    for members in (list(compress(groups, number == k)) for k in np.unique(number)):
        places = np.concatenate(members)
        own = np.arange(len(places))
        event = np.roll(own, 3)  # a group has three at most
        starts = np.cumsum([0, *map(len, members)])
        scene = np.concatenate([np.roll(own[a:b], 1) for a, b in pairwise(starts)])
        scene = np.where(scene == own, event, scene)
        chunks.append(Chunk(places, {PAIR: own, SCENE: scene, EVENT: event}))
    return chunks


def list_maps(output: ModelOutput) -> Maps:
    """Every block's map, where a network has none the end of every stage. Those of fewer than eight
    rows or columns are left out: nothing is low in them but the mean over positions."""
    maps = output.blocks or {name: output.maps[name] for name in output.stages}
    kept = {name: x for name, x in maps.items() if x.ndim == 4 and has_low_band(*x.shape[2:])}
    if not kept:
        raise UserError("no block has a map of eight rows and columns: expected one or more")
    return kept


@dataclass
class Found:
    """One block. shape: (C, h, w). energies: comparison → (3, n, G) float64, of the first map, of
    the second and of their difference in each group of `rings`. pooled: source → band → (n, C) and
    coefficients: source → band → (n, D), see `spectral.divergence`."""

    shape: tuple[int, int, int]
    rings: Rings
    energies: dict[Key, np.ndarray] = field(default_factory=dict)
    pooled: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    coefficients: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def measure(self, key: Key) -> dict[str, np.ndarray]:
        """Metric → (n, G) of one comparison."""
        return measure_divergence(*self.energies[key], self.shape, self.rings.bins)

    def predict(self, key: Key) -> dict[str, np.ndarray]:
        """Metric → (G,), the mean of a comparison if its maps shared nothing."""
        one, two, _ = self.energies[key]
        return predict_divergence(one, two, self.shape, self.rings.bins)


@torch.no_grad()
def gather(
    look: Look,
    chunks: Iterable[Chunk],
    compared: Compared,
    standardised: bool = True,
    kept: Iterable[str] = (),
) -> dict[str, Found]:
    """Block → what is found of it, the events in the order of the chunks.

    kept: sources whose coefficients are kept. Nothing but numbers of an event is held beyond its
    chunk, so that maps may be of any size.
    """
    wanted = dict.fromkeys(source for one, two, _ in compared.values() for source in (one, two))
    found: dict[str, Found] = {}
    parts: dict[str, dict[tuple, list[torch.Tensor]]] = {}
    for chunk in chunks:
        seen = look(chunk.places)
        for name in seen[next(iter(wanted))]:
            maps = {source: seen[source][name] for source in wanted}
            if name not in found:
                found[name], parts[name] = _begin(name, maps), {}
            spectra = {source: transform(x, standardised) for source, x in maps.items()}
            for key, rows in _look_into(spectra, found[name].rings, chunk, compared, kept):
                parts[name].setdefault(key, []).append(rows)
    for name, block in found.items():
        for (kind, *key), rows in parts.pop(name).items():
            whole = torch.cat(rows).cpu().numpy()
            if kind == "energies":
                block.energies[tuple(key)] = whole.astype(np.float64).swapaxes(0, 1)
            else:
                getattr(block, kind).setdefault(key[0], {})[key[1]] = whole
    return found


def _begin(name: str, maps: Maps) -> Found:
    shapes = dict.fromkeys(tuple(x.shape[1:]) for x in maps.values())
    if len(shapes) > 1:
        listed = " and ".join(map(str, shapes))
        raise UserError(f"{name} gives maps {listed}: expected one shape to compare them")
    (c, h, w) = next(iter(shapes))
    return Found((c, h, w), find_rings(h, w, next(iter(maps.values())).device))


def _look_into(
    spectra: dict[str, torch.Tensor],
    rings: Rings,
    chunk: Chunk,
    compared: Compared,
    kept: Iterable[str],
) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """(kind, what of) and the rows of one chunk's events, of one block."""
    weights = rings.weights
    energies = {source: sum_energies(x, weights) for source, x in spectra.items()}
    for key, (one, two, whose) in compared.items():
        partner = torch.from_numpy(chunk.partners[whose]).to(weights.device)
        gap = sum_energies(spectra[one] - spectra[two][partner], weights)
        yield ("energies", *key), torch.stack([energies[one], energies[two][partner], gap], dim=1)
    for band, group in zip(BANDS, weights, strict=False):
        for source, spectrum in spectra.items():
            yield ("pooled", source, band), pool_energies(spectrum, group)
        for source in kept:
            yield ("coefficients", source, band), list_coefficients(spectra[source], group, MOST)
