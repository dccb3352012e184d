"""Independent float64 NumPy transcriptions of the methods that read feature maps.

They import nothing of the package. A method's own parameters come as the arrays of its state_dict,
so that projectors, attention and heads are transcribed too; batch norm is that of training mode.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import oracles
import pywt
import scipy.signal
import scipy.stats


@dataclass
class Output:
    """One network's pass: logits (N, K); name → map or block, before its ReLU; mask (N, L) of a
    sentence. head: weight (K, C) of its classifier. norms: map → (γ, β) of the norm before it."""

    logits: np.ndarray
    maps: dict[str, np.ndarray]
    mask: np.ndarray | None = None
    head: np.ndarray | None = None
    norms: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


# The building blocks of networks


def relu(x):
    return np.where(x > 0, x, 0.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def grid(x):
    """A sentence's map is a grid of one column."""
    return x[:, :, :, None] if x.ndim == 3 else x


def pool(x, mask):
    """(N, C): mean over the positions, of a sentence over its words."""
    rows = []
    for sample, values in enumerate(x):
        if x.ndim == 3:
            values = values[:, mask[sample] == 1]
        rows.append(values.reshape(len(values), -1).mean(axis=1))
    return np.stack(rows)


def pool_adaptively(x, height, width):
    """Bin i of o covers floor(i·h/o) to ceil((i+1)·h/o); bins may overlap."""
    high, wide = x.shape[2:]
    out = np.zeros((*x.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            down = slice(i * high // height, -(-(i + 1) * high // height))
            along = slice(j * wide // width, -(-(j + 1) * wide // width))
            out[:, :, i, j] = x[:, :, down, along].mean(axis=(2, 3))
    return out


def resize_bilinearly(x, height, width):
    """Pixel centres at (i + ½)·h/H - ½, held inside the map (align_corners false)."""
    out = np.zeros((*x.shape[:2], height, width))

    def locate(place, size, target):
        centre = max((place + 0.5) * size / target - 0.5, 0.0)
        first = math.floor(centre)
        return first, min(first + 1, size - 1), centre - first

    for i in range(height):
        top, bottom, down = locate(i, x.shape[2], height)
        for j in range(width):
            left, right, along = locate(j, x.shape[3], width)
            above = (1 - along) * x[:, :, top, left] + along * x[:, :, top, right]
            below = (1 - along) * x[:, :, bottom, left] + along * x[:, :, bottom, right]
            out[:, :, i, j] = (1 - down) * above + down * below
    return out


def resize_nearest(x, height, width):
    out = np.zeros((*x.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            row, column = i * x.shape[2] // height, j * x.shape[3] // width
            out[:, :, i, j] = x[:, :, row, column]
    return out


def project(x, weight, bias=None):
    """1×1 convolution: one linear map at every position."""
    out = np.einsum("nchw,oc->nohw", x, weight.reshape(len(weight), -1))
    return out if bias is None else out + bias[None, :, None, None]


def convolve(x, weight, stride=1, separate=False):
    """3×3 convolution with one zero around, no bias; `separate`: each channel by itself."""
    samples = []
    for sample in x:
        padded = [np.pad(channel, 1) for channel in sample]
        channels = []
        for place, kernels in enumerate(weight):
            chosen = [padded[place]] if separate else padded
            parts = [
                scipy.signal.correlate2d(channel, kernel, mode="valid")[::stride, ::stride]
                for channel, kernel in zip(chosen, kernels, strict=True)
            ]
            channels.append(sum(parts))
        samples.append(channels)
    return np.array(samples)


def batch_norm(x, p, prefix):
    """Training mode: each channel by its mean and biased variance over the batch and positions."""
    out = np.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        scaled = (values - values.mean()) / math.sqrt(((values - values.mean()) ** 2).mean() + 1e-5)
        out[:, c] = p[f"{prefix}.weight"][c] * scaled + p[f"{prefix}.bias"][c]
    return out


def project_and_norm(x, p, prefix):
    weight, bias = p[f"{prefix}.0.weight"], p.get(f"{prefix}.0.bias")
    return batch_norm(project(x, weight, bias), p, f"{prefix}.1")


def connect(x, p, prefix):
    """A 1×1 convolution where the method has one."""
    return project(x, p[f"{prefix}.weight"]) if f"{prefix}.weight" in p else x


def arrange(o, s, t, names, activate):
    """The two maps pooled to one position, or the student's at the teacher's size."""
    mine, theirs = activate(s.maps[names[0]]), activate(t.maps[names[1]])
    if o.get("compare", "pooled") == "resized":
        theirs = grid(theirs)
        return resize_bilinearly(grid(mine), *theirs.shape[2:]), theirs
    return pool(mine, s.mask)[:, :, None, None], pool(theirs, t.mask)[:, :, None, None]


def keep(x):
    return x


def task(s, y):
    return oracles.cross_entropy(s.logits, y)


# The methods' terms. o: options that differ from the defaults; p: the method's parameters; s, t:
# the two outputs; y: labels; names: kind of map → pairs (student's, teacher's) of names, shallow to
# deep; progress: share of the epochs that is done.


def attention_map(x, size=None):
    """(N, positions): mean over channels of F², averaged to `size`, length 1."""
    energy = (x * x).mean(axis=1, keepdims=True)
    if size is not None:
        energy = pool_adaptively(energy, *size)
    return oracles.unit(energy.reshape(len(x), -1))


def at_terms(o, p, s, t, y, names, progress=1.0):
    total = 0.0
    for one, two in names["stages"]:
        mine, theirs = relu(grid(s.maps[one])), relu(grid(t.maps[two]))
        size = [min(a, b) for a, b in zip(mine.shape[2:], theirs.shape[2:], strict=True)]
        pair = (attention_map(pool_adaptively(x, *size)) for x in (mine, theirs))
        total += oracles.mse(*pair)
    return {"task": task(s, y), "attention": o.get("weight", 1000.0) * total}


def fitnet_terms(o, p, s, t, y, names, progress=1.0):
    mine, theirs = arrange(o, s, t, names["middle"][0], relu)
    found = relu(project_and_norm(mine, p, "regressor"))
    return {"task": task(s, y), "hint": o.get("weight", 100.0) * ((found - theirs) ** 2).mean()}


def pkd_terms(o, p, s, t, y, names, progress=1.0):
    mine, theirs = arrange(o, s, t, names["last"][0], keep)
    mine = connect(mine, p, "connectors.0")
    distances = []
    for c in range(theirs.shape[1]):
        a, b = ((x - x.mean()) / (x.std(ddof=1) + 1e-6) for x in (mine[:, c], theirs[:, c]))
        distances.append(((a - b) ** 2).mean())
    return {"task": task(s, y), "feature": o.get("weight", 6.0) * np.mean(distances) / 2}


@functools.cache
def margin(gamma, beta):
    """E[x | x < 0] of N(β, |γ|), by SciPy's truncated normal."""
    size = abs(gamma)
    if scipy.stats.norm.cdf(0, loc=beta, scale=size) <= 1e-3:
        return -3 * size
    return scipy.stats.truncnorm.mean(-np.inf, -beta / size, loc=beta, scale=size)


def ofd_terms(o, p, s, t, y, names, progress=1.0):
    total, stages = 0.0, names["stages"]
    for place, pair in enumerate(stages):
        mine, theirs = arrange(o, s, t, pair, keep)
        mine = project_and_norm(mine, p, f"connectors.{place}")
        amount = 0.0
        for c, (gamma, beta) in enumerate(zip(*t.norms[pair[1]], strict=True)):
            target = np.maximum(theirs[:, c], margin(gamma, beta))
            counted = (mine[:, c] > target) | (target > 0)
            amount += ((mine[:, c] - target)[counted] ** 2).sum()
        if o.get("compare", "pooled") == "pooled":  # one value stands for all of them
            amount *= np.prod(t.maps[pair[1]].shape[2:])
        total += 2.0 ** -(len(stages) - 1 - place) * amount / len(mine)
    return {"task": task(s, y), "stages": o.get("weight", 1e-3) * total}


def afd_terms(o, p, s, t, y, names, progress=1.0):
    """names["blocks"]: the student's and the teacher's blocks, not in pairs."""
    mine, theirs = names["blocks"]
    units = o.get("units", 128)
    queries, keys = [], []
    for place, name in enumerate(theirs):
        pooled = pool(relu(t.maps[name]), t.mask)[:, :, None, None]
        queries.append(project_and_norm(pooled, p, f"queries.{place}")[:, :, 0, 0])
    for place, name in enumerate(mine):
        pooled = pool(relu(s.maps[name]), s.mask)[:, :, None, None]
        keys.append(relu(project_and_norm(pooled, p, f"keys.{place}.0"))[:, :, 0, 0])
    # One layer for the keys of every block, its batch norm over samples and blocks.
    count = len(y)
    spread = project_and_norm(np.concatenate(keys)[:, :, None, None], p, "bilinear")[:, :, 0, 0]
    total = 0.0
    for i, name in enumerate(theirs):
        target = relu(grid(t.maps[name]))
        size, target = target.shape[2:], attention_map(target)
        for n in range(count):
            scores, distances = [], []
            for j, other in enumerate(mine):
                key = spread[j * count + n, i * units : (i + 1) * units]
                place = p["place_teacher"][i] @ p["place_student"][j]
                scores.append((key @ queries[i][n] + place) / math.sqrt(units))
                own = attention_map(relu(grid(s.maps[other][n : n + 1])), size)
                distances.append(((own[0] - target[n]) ** 2).mean())
            weights = np.exp(scores) / np.exp(scores).sum()
            total += weights @ np.array(distances) / count
    return {
        "task": task(s, y),
        "kd": o.get("kd_weight", 0.9) * oracles.kl(s.logits, t.logits, o.get("temperature", 4.0)),
        "attention": o.get("weight", 200.0) * total,
    }


def c2kd_terms(o, p, s, t, y, names, progress=1.0, held=None, released=False):
    """held: parameters and the two outputs as they were, from which the detached sides come."""
    name = names["penultimate"][0]

    def read(p, output, side):
        x = pool(relu(output.maps[name[side]]), output.mask)[:, :, None, None]
        hidden = relu(batch_norm(project(x, p[f"proxies.{side}.0.weight"]), p, f"proxies.{side}.1"))
        return hidden[:, :, 0, 0] @ p[f"proxies.{side}.4.weight"].T + p[f"proxies.{side}.4.bias"]

    def hide(logits, label):
        if released:
            return np.array([0.0 if c == label else z for c, z in enumerate(logits)])
        return np.delete(logits, label)

    def teach(target, own):
        """KL(softmax of the target ‖ softmax of own)."""
        a, b = oracles.softmax(target[None])[0], oracles.softmax(own[None])[0]
        return (a * np.log(a / b)).sum()

    own = s.logits, t.logits
    proxies = read(p, s, 0), read(p, t, 1)
    then = held or (p, s, t)
    fixed = then[1].logits, then[2].logits
    fixed_proxies = read(then[0], then[1], 0), read(then[0], then[2], 1)
    weight, terms = o.get("weight", 1.0), {}
    for side, prefix in enumerate(("", "teacher_")):
        from_proxy = to_proxy = non_target = 0.0
        for n, label in enumerate(y):
            from_proxy += teach(fixed_proxies[side][n], own[side][n])
            to_proxy += teach(fixed[side][n], proxies[side][n])
            tau = scipy.stats.kendalltau(fixed_proxies[0][n], fixed_proxies[1][n]).statistic
            if tau > o.get("krc", 0.0):
                target = hide(fixed_proxies[1 - side][n], label)
                non_target += teach(target, hide(proxies[side][n], label))
        terms[f"{prefix}task"] = oracles.cross_entropy(own[side], y)
        terms[f"{prefix}from_proxy"] = weight * from_proxy / len(y)
        terms[f"{prefix}to_proxy"] = weight * to_proxy / len(y)
        terms[f"{prefix}non_target"] = weight * non_target / len(y)
    return terms


def sp_terms(o, p, s, t, y, names, progress=1.0):
    count, (one, two) = len(y), names["last"][0]
    grams = []
    for x in (s.maps[one], t.maps[two]):
        gram = np.array([[(relu(a) * relu(b)).sum() for b in x] for a in x])
        grams.append(np.array([row / math.sqrt((row * row).sum()) for row in gram]))
    distance = ((grams[1] - grams[0]) ** 2).sum() / count**2
    return {"task": task(s, y), "similarity": o.get("weight", 3000.0) * distance}


def vid_terms(o, p, s, t, y, names, progress=1.0):
    total = 0.0
    for place, pair in enumerate(names["stages"]):
        mine, theirs = arrange(o, s, t, pair, relu)
        for layer in (0, 2, 4):
            mine = project(relu(mine) if layer else mine, p[f"regressors.{place}.{layer}.weight"])
        parts = []
        for c, alpha in enumerate(p[f"alphas.{place}"]):
            variance = math.log(1 + math.exp(alpha)) + 1e-5
            parts.append((theirs[:, c] - mine[:, c]) ** 2 / variance + math.log(variance))
        total += np.mean(parts) / 2
    return {"task": task(s, y), "stages": o.get("weight", 1.0) * total}


def compare_pyramid(s, t):
    """ReviewKD's HCL; a map narrower than the size keeps its width."""
    parts, weights = [((s - t) ** 2).mean()], [1.0]
    for size in (4, 2, 1):
        if size < s.shape[2]:
            pair = [pool_adaptively(x, size, min(size, s.shape[3])) for x in (s, t)]
            parts.append(((pair[0] - pair[1]) ** 2).mean())
            weights.append(weights[-1] / 2)
    return np.average(parts, weights=weights)


def reviewkd_terms(o, p, s, t, y, names, progress=1.0):
    deepest = names["stages"][-1]
    levels = [
        (pool(relu(s.maps[deepest[0]]), s.mask)[:, :, None, None],
         pool(relu(t.maps[deepest[1]]), t.mask)[:, :, None, None])
    ]  # fmt: skip
    for one, two in reversed(names["stages"]):
        levels.append((relu(grid(s.maps[one])), grid(t.maps[two])))
    total, fused = 0.0, None
    for place, (mine, theirs) in enumerate(levels):
        prefix = f"fusions.{place}"
        x = project_and_norm(mine, p, f"{prefix}.reduce")
        if place:
            before = resize_nearest(fused, *x.shape[2:])
            both = np.concatenate([x, before], axis=1)
            share = sigmoid(project(both, p[f"{prefix}.attend.weight"], p[f"{prefix}.attend.bias"]))
            x = x * share[:, 0:1] + before * share[:, 1:2]
        fused = resize_nearest(x, *theirs.shape[2:])
        found = convolve(fused, p[f"{prefix}.expand.0.weight"])
        total += compare_pyramid(batch_norm(found, p, f"{prefix}.expand.1"), theirs)
    warmup = o.get("warmup", 20 / 240)
    ramp = min(progress / warmup, 1.0) if warmup else 1.0
    return {"task": task(s, y), "stages": o.get("weight", 5.0) * ramp * total}


def catkd_terms(o, p, s, t, y, names, progress=1.0):
    one, two = names["last"][0]
    side, maps = o.get("side", 2), []
    single = any(np.prod(x.shape[2:]) == 1 for x in (s.maps[one], t.maps[two]))
    for output, name in ((s, one), (t, two)):
        x = pool_adaptively(project(relu(grid(output.maps[name])), output.head), side, side)
        x = x.reshape(*x.shape[:2], -1)
        if o.get("scaled", True):
            x = x / np.sqrt((x * x).sum(axis=(1, 2) if single else 2, keepdims=True))
        maps.append(x)
    distance = ((maps[0] - maps[1]) ** 2).mean()
    return {"task": task(s, y), "class_map": o.get("weight", 15.0) * distance}


def ofa_terms(o, p, s, t, y, names, progress=1.0):
    """names["stages"]: the student's stages alone."""
    power, temperature = o.get("power", 1.0), o.get("temperature", 1.0)

    def distance(logits):
        total = 0.0
        theirs, mine = (oracles.softmax(z / temperature) for z in (t.logits, logits))
        for n, label in enumerate(y):
            for c in range(logits.shape[1]):
                own = 1.0 if c == label else 0.0
                total -= ((theirs[n, c] + own) ** power - own) * math.log(mine[n, c])
        return total / len(y)

    def score(name, left):
        prefix, x = f"heads.{name}", relu(grid(s.maps[name]))
        for step in range(left):
            for layer, stride in ((0, 2), (4, 1)):
                at = f"{prefix}.{step}"
                x = convolve(x, p[f"{at}.{layer}.weight"], stride, separate=True)
                x = project(x, p[f"{at}.{layer + 1}.weight"])
                x = relu(batch_norm(x, p, f"{at}.{layer + 2}"))
        if not left:
            x = project(x, p[f"{prefix}.0.weight"], p[f"{prefix}.0.bias"])
        last = f"{prefix}.{max(left, 1) + 2}"
        return x.mean(axis=(2, 3)) @ p[f"{last}.weight"].T + p[f"{last}.bias"]

    stages = names["stages"]
    found = [distance(score(name, len(stages) - 1 - i)) for i, name in enumerate(stages)]
    return {
        "task": task(s, y),
        "kd": o.get("weight", 1.0) * distance(s.logits),
        "stages": o.get("stage_weight", 1.0) * sum(found),
    }


def freekd_terms(o, p, s, t, y, names, progress=1.0):
    total = 0.0
    for place, (one, two) in enumerate(names["stages"]):
        target = relu(grid(t.maps[two]))
        mine = resize_bilinearly(relu(grid(s.maps[one])), *target.shape[2:])
        mine = connect(mine, p, f"connectors.{place}")
        levels = min(o.get("levels", 3), math.floor(math.log2(max(target.shape[2:]))))
        if levels:
            height, width = target.shape[2:]
            for level in detail_bands(mine - target, levels):
                # Bands in PyWavelets' order: high-pass down, along, and both.
                across = {0: height > 1, 1: width > 1, 2: height > 1 and width > 1}
                kept = [band for band, there in across.items() if there]
                total += np.abs(level[:, :, kept]).mean() if kept else 0.0
                height, width = level.shape[3:]
    return {"task": task(s, y), "details": o.get("weight", 1.0) * total}


def detail_bands(x, levels, wavelet="haar"):
    """PyWavelets' details of every map, finest level first: (N, C, 3, h, w) each."""
    return [np.stack(level, axis=2) for level in transform(x, levels, wavelet)[:0:-1]]


def transform(x, levels, wavelet="haar"):
    """PyWavelets' own list: the low band, then the details from the coarsest to the finest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a level is deep for so small a map
        return pywt.wavedec2(x, wavelet, mode="zero", level=levels, axes=(-2, -1))
