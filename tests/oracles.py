"""Independent float64 NumPy transcriptions of the formulas; they import nothing of the package."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.fft


def split(x: np.ndarray, edge: int, dc: str = "drop") -> dict[str, np.ndarray]:
    """Bands of (…, D): real FFT bins 1 to `edge` are low, the rest high, bin 0 as `dc` says."""
    x = np.asarray(x, dtype=np.float64)
    spectrum = np.fft.rfft(x, axis=-1)
    first = 0 if dc == "low" else 1
    bins = {"low": slice(first, edge + 1), "high": slice(edge + 1, None), "dc": slice(0, 1)}
    bands = {}
    for name, chosen in bins.items():
        kept = np.zeros_like(spectrum)
        kept[..., chosen] = spectrum[..., chosen]
        bands[name] = np.fft.irfft(kept, n=x.shape[-1], axis=-1)
    return bands


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.sqrt((x * x).sum(axis=1, keepdims=True)), 1e-8)


def signed_log(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.log(1 + np.abs(x))


def mse(a: np.ndarray, b: np.ndarray, reduction: str = "mean") -> float:
    """Mean over rows; mean or sum over columns."""
    rows = ((a - b) ** 2).sum(axis=1)
    return float(rows.mean() / (a.shape[1] if reduction == "mean" else 1))


def softmax(z: np.ndarray) -> np.ndarray:
    exp = np.exp(z - z.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def cross_entropy(z: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(softmax(z)[np.arange(len(z)), labels]).mean())


def kl(z_s: np.ndarray, z_t: np.ndarray, temperature: float) -> float:
    """T² times the batch mean of Σ p_t log(p_t / p_s)."""
    p_s, p_t = softmax(z_s / temperature), softmax(z_t / temperature)
    return float(temperature**2 * (p_t * np.log(p_t / p_s)).sum() / len(z_s))


def differentiate(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5):
    """Gradient of f at x by central differences, entry by entry."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (f(ahead) - f(behind)) / (2 * step)
    return gradient


def split_cosine(x, edge):
    """SciPy's orthonormal DCT-II, split after as many coefficients as the Fourier bands have."""
    coefficients = scipy.fft.dct(x, norm="ortho", axis=1)
    count = 2 * edge - (x.shape[1] % 2 == 0 and edge == x.shape[1] // 2)
    low, high = coefficients.copy(), coefficients.copy()
    low[:, 0] = low[:, 1 + count :] = high[:, : 1 + count] = 0
    return {"low": scipy.fft.idct(low, norm="ortho", axis=1),
            "high": scipy.fft.idct(high, norm="ortho", axis=1)}  # fmt: skip


def split_softly(x, edge, softness):
    """The soft mask bin by bin, by an explicit sum over sines and cosines."""
    dim = x.shape[1]
    low = np.zeros_like(x)
    k = dim // 2
    position = np.arange(dim)
    for bin in range(1, k + 1):
        share = 1 / (1 + np.exp(-(edge - (bin - 0.5) / k) / softness))
        angle = 2 * np.pi * bin * position / dim
        factor = (1 if 2 * bin == dim else 2) / dim
        for wave in (np.cos(angle), np.sin(angle)):
            low += share * factor * np.outer(x @ wave, wave)
    return {"low": low, "high": x - x.mean(axis=1, keepdims=True) - low}


# The methods' terms. o: options that differ from the defaults; heads: (kind, band) → weight, bias;
# z, x, y: logits, features and labels; _s the student's, _t the teacher's.


def none_terms(o, heads, z_s, x_s, z_t, x_t, y):
    return {"task": cross_entropy(z_s, y)}


def kd_terms(o, heads, z_s, x_s, z_t, x_t, y):
    task, soft = cross_entropy(z_s, y), kl(z_s, z_t, o.get("temperature", 4.0))
    return {"task": o.get("task_weight", 0.1) * task, "kd": o.get("weight", 0.9) * soft}


def feat_terms(o, heads, z_s, x_s, z_t, x_t, y):
    distance = mse(x_s, x_t, o.get("reduction", "mean"))
    return {"task": cross_entropy(z_s, y), "feature": o.get("weight", 1.0) * distance}


def fdcmkd_terms(o, heads, z_s, x_s, z_t, x_t, y, with_teacher=True, soft=False):
    on = {part: o.get(part, True) for part in ("frequency", "align", "scale", "log")}

    def cut(x):
        if not on["frequency"]:
            return {"feature": x}
        edge = math.floor(o.get("cutoff", 0.5) * (x.shape[1] // 2))
        if soft:
            runs = np.split(x, o.get("groups", 1), axis=1)
            parts = [split_softly(r, o.get("cutoff", 0.5), o.get("softness", 0.05)) for r in runs]
            found = {b: np.concatenate([p[b] for p in parts], axis=1) for b in ("low", "high")}
        elif o.get("basis", "dft") == "dct":
            found = split_cosine(x, edge)
        else:
            found = split(x, edge, o.get("dc", "drop"))
        kept = {"both": ("low", "high")}.get(o.get("bands", "both"), (o.get("bands"),))
        return {band: found[band] for band in kept}

    def score(kind, band, x):
        weight, bias = heads[kind, "whole" if band == "feature" else band]
        return cross_entropy(np.maximum(x, 0) @ weight.T + bias, y)

    mine, theirs = cut(x_s), cut(x_t)
    terms = {"task": cross_entropy(z_s, y)}
    for band in mine:
        name = "whole" if band == "feature" else band
        if on["frequency"]:
            terms[f"task_{name}"] = score("task", band, mine[band])
        if on["align"]:
            terms[f"align_{name}"] = score("align", band, mine[band])
        if not with_teacher:
            continue
        if on["align"]:
            terms[f"align_{name}_teacher"] = score("align", band, theirs[band])
        s, t = mine[band], theirs[band]
        if on["scale"]:
            s, t = unit(s), unit(t)
        if o.get("log_low", False) if band == "low" else on["log"]:
            s, t = signed_log(s), signed_log(t)
        weight = o.get("high_weight" if band == "high" else "low_weight", 1.0)
        terms[band] = weight * mse(s, t, o.get("reduction", "mean"))
    return terms
