"""Independent float64 NumPy transcriptions of the methods of segmentation.

They import nothing of the package. A method's own parameters come as the arrays of its state_dict;
batch norm is that of training mode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import oracles
from oracles_maps import batch_norm, pool_adaptively, project, project_and_norm, relu
from oracles_maps import resize_bilinearly as resize


@dataclass
class Output:
    """One network's pass: logits (N, K, H, W); name → map (N, C, h, w)."""

    logits: np.ndarray
    maps: dict[str, np.ndarray]


def list_pixels(z, targets):
    """(P, K) of the pixels with a class, image by image, row by row."""
    rows = []
    for n, image in enumerate(targets):
        for i, line in enumerate(image):
            rows += [z[n, :, i, j] for j, label in enumerate(line) if label != 255]
    return np.array(rows)


def task(s, targets):
    labels = np.array([label for label in targets.flatten() if label != 255])
    return oracles.cross_entropy(list_pixels(s.logits, targets), labels)


def find_cell(place, size, bins):
    """The span of pixels that a bin of adaptive pooling covers."""
    return place * size // bins, -(-(place + 1) * size // bins)


def list_rows(x):
    """(N · h · w, C): positions as rows, image by image."""
    return np.array([x[n, :, i, j] for n in range(len(x)) for i in range(x.shape[2])
                     for j in range(x.shape[3])])  # fmt: skip


def length(x):
    return math.sqrt((x * x).sum())


def mmanet_terms(s, t, targets, names, weight=4.0):
    """names: pairs of maps. The full (Q, Q) matrices, and a loop over their rows."""
    total = 0.0
    for one, two in names:
        theirs = relu(t.maps[two])
        mine = resize(relu(s.maps[one]), *theirs.shape[2:])
        grid = min(theirs.shape[2], 30), min(theirs.shape[3], 40)
        rows = [list_rows(pool_adaptively(x, *grid)) for x in (mine, theirs)]
        entropy = []
        for n, image in enumerate(targets):
            for i in range(grid[0]):
                for j in range(grid[1]):
                    top, bottom = find_cell(i, image.shape[0], grid[0])
                    left, right = find_cell(j, image.shape[1], grid[1])
                    inside = [
                        t.logits[n, :, y, x]
                        for y in range(top, bottom)
                        for x in range(left, right)
                        if image[y, x] != 255
                    ]
                    amount = 0.0
                    if inside:
                        p = oracles.softmax(np.mean(inside, axis=0)[None])[0]
                        amount = max(-sum(q * math.log(q) for q in p if q > 0), 1e-8)
                    entropy.append(amount)
        shares = np.array(entropy) / max(sum(entropy), 1e-8)
        grams = [x @ x.T for x in rows]
        middle = len(shares) // 2
        for i, share in enumerate(shares):
            for half in (slice(0, middle), slice(middle, None)):
                a, b = (g[i, half] / max(length(g[i, half]), 1e-12) for g in grams)
                total += share * ((a - b) ** 2).sum()
    return {"task": task(s, targets), "margin": weight * total}


def compare_rows(mine, theirs):
    """KL of two rows of similarities at τ = 0.1."""
    a, b = (oracles.softmax(np.asarray(x)[None] / 0.1)[0] for x in (mine, theirs))
    return sum(q * (math.log(q) - math.log(p)) for p, q in zip(a, b, strict=True))


def compare_pairs(s, t):
    """(N, A, ·) vectors: every pair of images by itself."""
    count, total = len(s), 0.0
    s, t = (np.array([oracles.unit(image) for image in x]) for x in (s, t))
    for i in range(count):
        for j in range(count):
            pairs = zip(s[i] @ s[j].T, t[i] @ t[j].T, strict=True)
            total += np.mean([compare_rows(a, b) for a, b in pairs])
    return total / count**2


def compare_memory(s, t, memory):
    return np.mean([compare_rows(memory @ a, memory @ b) for a, b in zip(s, t, strict=True)])


def refine(x, p):
    query, key, value = (project(x, p[f"refiner.{n}.weight"]) for n in ("query", "key", "value"))
    count, inner, height, width = query.shape
    seen = np.zeros_like(query)
    for n in range(count):
        q, k, v = (part[n].reshape(inner, -1).T for part in (query, key, value))
        seen[n] = (oracles.softmax(q @ k.T / math.sqrt(inner)) @ v).T.reshape(inner, height, width)
    back = relu(project_and_norm(seen, p, "refiner.back"))
    return relu(project_and_norm(np.concatenate([x, back], axis=1), p, "refiner.join"))


def embed(x, p, prefix):
    hidden = relu(batch_norm(project(x, p[f"{prefix}.0.weight"]), p, f"{prefix}.1"))
    return project(hidden, p[f"{prefix}.3.weight"])


def shrink(x, height, width):
    return x if x.shape[2:] == (height, width) else pool_adaptively(x, height, width)


def cirkd_terms(s, t, targets, p, names, grid, patches, classes):
    """The first batch, with memories that hold all of it and draws that take all they hold.

    names: the pair of maps; grid, patches: height and width of the pixel and the channel terms.
    """
    theirs = relu(t.maps[names[1]])
    mine = relu(s.maps[names[0]])
    mine = refine(mine, p) if "refiner.query.weight" in p else mine
    mine = mine if mine.shape[2:] == theirs.shape[2:] else resize(mine, *theirs.shape[2:])
    logits = [list_pixels(x.logits, targets) for x in (s, t)]
    terms = {
        "task": task(s, targets),
        "kd": oracles.kl(*logits, 1.0),
        "hint": ((project(mine, p["hint.weight"]) - theirs) ** 2).mean(),
    }
    small = [shrink(x, *grid) for x in (mine, theirs)]
    count = len(mine)
    terms["pixel"] = compare_pairs(*(x.reshape(*x.shape[:2], -1).transpose(0, 2, 1) for x in small))

    # Class of the pixel at the middle of every position.
    size = targets.shape[1:]
    labels = [
        targets[n, int((i + 0.5) * size[0] / grid[0]), int((j + 0.5) * size[1] / grid[1])]
        for n in range(count)
        for i in range(grid[0])
        for j in range(grid[1])
    ]
    embedded = oracles.unit(list_rows(embed(small[0], p, "embed_pixels")))
    units, per = oracles.unit(list_rows(small[1])), grid[0] * grid[1]
    pixels, regions = [], []
    for k in range(classes):
        for n in range(count):
            own = [units[n * per + q] for q in range(per) if labels[n * per + q] == k]
            pixels += own
            if own:
                regions.append(np.mean(own, axis=0) / length(np.mean(own, axis=0)))
    kept = [q for q, label in enumerate(labels) if label != 255]
    for name, memory in (("memory_pixel", pixels), ("memory_region", regions)):
        terms[name] = compare_memory(embedded[kept], units[kept], np.array(memory))

    coarse = [shrink(x, *patches) for x in (mine, theirs)]
    coarse[0] = embed(coarse[0], p, "embed_channels")
    channels = [x.reshape(*x.shape[:2], -1) for x in coarse]
    terms["channel"] = compare_pairs(*channels)
    flat = [oracles.unit(x.reshape(-1, x.shape[2])) for x in channels]
    terms["memory_channel"] = compare_memory(*flat, flat[1])
    terms["channel_mse"] = ((flat[0] - flat[1]) ** 2).mean()
    weights = {"memory_pixel": 0.1, "memory_region": 0.1, "memory_channel": 0.1}
    weights["channel_mse"] = 100.0
    return {name: weights.get(name, 1.0) * x for name, x in terms.items()}


# Segmentation itself


def split_plane(x, cutoff):
    """Full complex FFT and a mask written out, (N, C, h, w) → low, high, mean."""
    height, width = x.shape[2:]
    spectrum = np.fft.fft2(x)
    low, mean = np.zeros_like(spectrum), np.zeros_like(spectrum)
    mean[:, :, 0, 0] = spectrum[:, :, 0, 0]
    for u in range(height):
        for v in range(width):
            # Cycles per position, of a bin and its mirror image.
            fast = max(min(u, height - u) / height, min(v, width - v) / width)
            if (u, v) != (0, 0) and fast / 0.5 <= cutoff + 1e-9:
                low[:, :, u, v] = spectrum[:, :, u, v]
    rest = spectrum - low - mean
    return tuple(np.fft.ifft2(part).real for part in (low, rest, mean))
