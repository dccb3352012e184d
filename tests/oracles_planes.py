"""Independent float64 NumPy transcriptions of the spatial bands and of the methods that use them.

They import nothing of the package. Spectra are whole and complex, masks written out.
"""

from __future__ import annotations

import math

import numpy as np
import oracles
import oracles_maps
from oracles_maps import connect, grid, resize_bilinearly, task


def keep(x, cutoff, mask):
    """(N, C, h, w) → the inverse of the masked spectrum, complex: its low band's real part and
    whatever imaginary part the mask leaves."""
    height, width = x.shape[2:]
    shifted = np.fft.fftshift(np.fft.fft2(x, norm="ortho"), axes=(2, 3))
    middle, reach = (height // 2, width // 2), [max(1, int(n * cutoff / 2)) for n in x.shape[2:]]
    kept = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            apart = i - middle[0], j - middle[1]
            if mask == "symmetric":
                kept[i, j] = all(abs(a) <= r for a, r in zip(apart, reach, strict=True))
            else:
                kept[i, j] = all(-r <= a < r for a, r in zip(apart, reach, strict=True))
    return np.fft.ifft2(np.fft.ifftshift(shifted * kept, axes=(2, 3)), norm="ortho")


def split(x, cutoff=0.5, mask="symmetric"):
    """What is left of both bands once the imaginary part is dropped."""
    low = keep(x, cutoff, mask).real
    high = x - low
    return low, np.where(np.abs(high) < 1e-14, 0.0, high)  # what rounding leaves of an empty band


def standardise(x):
    return scale(x - x.mean(axis=(2, 3), keepdims=True))


def scale(x):
    """To length 1 over the channels, where there is more than rounding."""
    length = np.sqrt((x * x).sum(axis=1, keepdims=True))
    return np.where(length < 1e-12, 0.0, x / np.maximum(length, 1e-12))


def distance(s, t, form):
    if form == "log_magnitude":
        s, t = np.log1p(np.abs(s)), np.log1p(np.abs(t))
    if form == "fdcmkd":
        s, t = scale(s), scale(t)
    if form in ("log_signed", "fdcmkd"):
        s, t = (np.sign(x) * np.log1p(np.abs(x)) for x in (s, t))
    return ((s - t) ** 2).mean()


def bands(s, t, cutoff=0.5, mask="symmetric", form="log_magnitude"):
    (s_low, s_high), (t_low, t_high) = (split(x, cutoff, mask) for x in (s, t))
    return ((s_low - t_low) ** 2).mean(), distance(s_high, t_high, form)


def frequency(i, size):
    """Waves along a side of the bin i, those beyond the middle counted backwards."""
    return min(i, size - i)


def gaussian(height, width, spread, passes):
    weights = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            square = frequency(i, height) ** 2 + frequency(j, width) ** 2
            low = math.exp(-square / (2 * (spread * min(height, width)) ** 2))
            weights[i, j] = low if passes == "low" else 1 - low
    return weights / weights.mean()


def filtered(s, t, spread, passes):
    gap = np.fft.fft2(s, norm="ortho") - np.fft.fft2(t, norm="ortho")
    return (gaussian(*s.shape[2:], spread, passes) * np.abs(gap) ** 2).mean()


def whiten(x):
    """Mean 0 and variance 1 over each sample, with torch's 1e-5 beside the variance."""
    rows = x.reshape(len(x), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return (rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)).reshape(x.shape)


def info_nce(s, t, temperature):
    rows = [oracles.unit(x.reshape(len(x), -1)) for x in (s, t)]
    return oracles.cross_entropy(rows[0] @ rows[1].T / temperature, np.arange(len(s)))


def align(p, s, t, names):
    pairs = []
    for place, (one, two) in enumerate(names):
        theirs = grid(t.maps[two])
        mine = connect(grid(s.maps[one]), p, f"aligned.connectors.{place}")
        pairs.append((resize_bilinearly(mine, *theirs.shape[2:]), theirs))
    return pairs


def freqkd_terms(o, p, s, t, y, names, progress=1.0):
    pairs = [tuple(map(standardise, pair)) for pair in align(p, s, t, names["stages"])]
    terms = {"task": o.get("task_weight", 1.0) * task(s, y)}
    low, high = o.get("low_weight", 1.0), o.get("high_weight", 0.1)
    if not o.get("frequency", True):
        return terms | {"feature": low * sum(((a - b) ** 2).mean() for a, b in pairs)}
    given = o.get("cutoff", 0.5), o.get("mask", "symmetric"), o.get("high", "log_magnitude")
    found = np.sum([bands(*pair, *given) for pair in pairs], axis=0)
    return terms | {"low": low * found[0], "high": high * found[1]}


def anchor_terms(o, p, s, t, y, names, progress=1.0):
    total = 0.0
    for pair in align(p, s, t, names["stages"]):
        mine, theirs = map(scale, pair)
        total += 1 - (mine * theirs).sum(axis=1).mean()
    return {"task": task(s, y), "anchor": o.get("weight", 0.1) * total}


def sfkd_terms(o, p, s, t, y, names, progress=1.0):
    """Without the refinement."""
    terms, total = {"task": task(s, y)}, 0.0
    for pair in align(p, s, t, names["stages"][-o.get("stages", 3) :]):
        mine, theirs = map(whiten, pair)
        matching = o.get("matching", "gaussian")
        if matching == "gaussian":
            total += filtered(mine, theirs, o.get("width", 0.25), o.get("passes", "low"))
        elif matching == "mse":
            total += ((mine - theirs) ** 2).mean()
        else:
            total += info_nce(mine, theirs, o.get("temperature", 0.07))
    logits, weight = o.get("logits", "ofa"), o.get("logit_weight", 1.0)
    if logits == "ofa":
        terms["kd"] = weight * oracles.ofa(s.logits, t.logits, y, 1.0, 1.0)
    if logits == "kd":
        terms["kd"] = weight * oracles.kl(s.logits, t.logits, 1.0)
    return terms | {"match": o.get("weight", 1.0) * total}


def refine(x, p, levels):
    """SFKD's refinement by PyWavelets: the sub-bands of each stream through its block, weighed by
    the other's mean size, and back."""

    def block(maps, prefix):
        found = oracles_maps.convolve(maps, p[f"{prefix}.change.0.weight"], separate=True)
        found = oracles_maps.project(found, p[f"{prefix}.change.1.weight"])
        found = oracles_maps.batch_norm(found, p, f"{prefix}.change.2")
        cumulative = np.vectorize(lambda z: (1 + math.erf(z / math.sqrt(2))) / 2)
        return maps + found * cumulative(found)

    def weigh(size, prefix):
        inner = size @ p[f"{prefix}.squeeze.weight"].T + p[f"{prefix}.squeeze.bias"]
        outer = oracles_maps.relu(inner) @ p[f"{prefix}.excite.weight"].T
        return 2 / (1 + np.exp(-(outer + p[f"{prefix}.excite.bias"])))

    if not levels:
        return block(x, "low")
    low, *details = oracles_maps.transform(x, levels)  # the details from the coarsest
    low, found = block(low, "low"), []
    for place, level in enumerate(reversed(details)):
        together = np.concatenate(level)  # orientation by orientation: the norm does not mind
        found.append(np.split(block(together, f"high.{place}"), 3))
    by_high = weigh(
        np.mean([np.mean([np.abs(band).mean(axis=(2, 3)) for band in f], axis=0) for f in found],
                axis=0),
        "gates.0",
    )  # fmt: skip
    by_low = weigh(np.abs(low).mean(axis=(2, 3)), "gates.1")
    low = low * by_high[:, :, None, None]
    details = [tuple(band * by_low[:, :, None, None] for band in level) for level in found]
    whole = oracles_maps.pywt.waverec2([low, *details[::-1]], "haar", "zero", axes=(-2, -1))
    return whole[:, :, : x.shape[2], : x.shape[3]]
