"""Independent float64 NumPy transcriptions of the formulas; they import nothing of the package."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pywt
import scipy.fft
import scipy.spatial.distance
import scipy.special


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


def differentiate(f: Callable, x: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Derivative of f, a number or an array, at x by central differences of fourth order: axes of
    f's value, then those of x.

    The error is near step⁴ = 1e-16 times the fifth derivative plus 1e-16 / step = 1e-12 times f, so
    that float64 gradients can be told apart to seven digits and more.
    """
    derivative = np.zeros((*np.shape(f(x)), *x.shape))
    for index in np.ndindex(x.shape):

        def along(steps: int, index=index):
            moved = x.copy()
            moved[index] += steps * step
            return np.asarray(f(moved))

        near, far = along(1) - along(-1), along(2) - along(-2)
        derivative[(..., *index)] = (8 * near - far) / (12 * step)
    return derivative


def split_cosine(x, edge):
    """SciPy's orthonormal DCT-II, split after as many coefficients as the Fourier bands have."""
    coefficients = scipy.fft.dct(x, norm="ortho", axis=1)
    count = 2 * edge - (x.shape[1] % 2 == 0 and edge == x.shape[1] // 2)
    low, high = coefficients.copy(), coefficients.copy()
    low[:, 0] = low[:, 1 + count :] = high[:, : 1 + count] = 0
    return {"low": scipy.fft.idct(low, norm="ortho", axis=1),
            "high": scipy.fft.idct(high, norm="ortho", axis=1)}  # fmt: skip


def split_softly(x, cutoff, softness):
    """The soft mask bin by bin, by an explicit sum over sines and cosines."""
    dim = x.shape[1]
    low = np.zeros_like(x)
    k = dim // 2
    position = np.arange(dim)
    for bin in range(1, k + 1):
        share = scipy.special.expit((cutoff - (bin - 0.5) / k) / softness)
        angle = 2 * np.pi * bin * position / dim
        factor = (1 if 2 * bin == dim else 2) / dim
        for wave in (np.cos(angle), np.sin(angle)):
            low += share * factor * np.outer(x @ wave, wave)
    return {"low": low, "high": x - x.mean(axis=1, keepdims=True) - low}


def soften(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """softmax(z / T) of one sample, (K,)."""
    return scipy.special.softmax(z / temperature)


def diverge(p: np.ndarray, q: np.ndarray) -> float:
    """Σ p log(p / q)."""
    return float(scipy.special.rel_entr(p, q).sum())


def tckd(z_s, z_t, y, temperature=4.0):
    """Divergence of (p_y, 1 - p_y), sample by sample."""
    total = 0.0
    for s, t, own in zip(z_s, z_t, y, strict=True):
        pair = [soften(z, temperature)[own] for z in (t, s)]
        total += diverge(*(np.array([p, 1 - p]) for p in pair))
    return temperature**2 * total / len(y)


def nckd(z_s, z_t, y, temperature=4.0):
    """As DKD's authors compute it: 1000 off the target's logit, softmax over all classes."""
    total = 0.0
    for s, t, own in zip(z_s, z_t, y, strict=True):
        far = 1000.0 * temperature * (np.arange(len(s)) == own)
        total += diverge(soften(t - far, temperature), soften(s - far, temperature))
    return temperature**2 * total / len(y)


def nkd(z_s, z_t, y, gamma=3.5, temperature=3.0):
    """Target's and others' cross-entropies (Yang et al.)."""
    target = others = 0.0
    for s, t, own in zip(z_s, z_t, y, strict=True):
        target -= soften(t)[own] * math.log(soften(s)[own])
        left = [c for c in range(len(s)) if c != own]
        theirs, mine = soften(t[left], temperature), soften(s[left], temperature)
        others -= sum(q * math.log(p) for q, p in zip(theirs, mine, strict=True))
    return target / len(y), gamma * temperature**2 * others / len(y)


def pearson(a, b, eps=1e-8):
    a, b = a - np.mean(a), b - np.mean(b)
    return sum(a * b) / (math.sqrt(sum(a * a)) * math.sqrt(sum(b * b)) + eps)


def dist(z_s, z_t, temperature=4.0):
    """1 - mean correlation of the predictions per sample, and per class, both times T²."""
    s, t = (np.array([soften(row, temperature) for row in z]) for z in (z_s, z_t))
    by_sample = [pearson(s[n], t[n]) for n in range(len(s))]
    by_class = [pearson(s[:, c], t[:, c]) for c in range(s.shape[1])]
    return tuple(temperature**2 * (1 - sum(rho) / len(rho)) for rho in (by_sample, by_class))


def ofa(z_s, z_t, y, power=1.0, temperature=1.0):
    total = 0.0
    for s, t, own in zip(z_s, z_t, y, strict=True):
        p_s, p_t = soften(s, temperature), soften(t, temperature)
        for c in range(len(s)):
            one = float(c == own)
            total -= ((p_t[c] + one) ** power - one) * math.log(p_s[c])
    return total / len(y)


def smooth_l1(a, b):
    """x² / 2 below 1, |x| - 1/2 above, mean over everything."""
    gap = np.abs(a - b)
    return float(np.where(gap < 1, gap**2 / 2, gap - 0.5).mean())


def measure_distances(x):
    """(N, N) distances over their mean over the pairs."""
    pairs = scipy.spatial.distance.pdist(x)
    return scipy.spatial.distance.squareform(pairs / pairs.mean())


def measure_angles(x):
    """(N, N, N) cosines of the angle at i between j and k; 0 where either is i itself."""
    cosines = np.zeros((len(x),) * 3)
    for i, j, k in np.ndindex(cosines.shape):
        if i not in (j, k):
            to_j, to_k = x[j] - x[i], x[k] - x[i]
            cosines[i, j, k] = to_j @ to_k / np.linalg.norm(to_j) / np.linalg.norm(to_k)
    return cosines


def pkt(x_s, x_t, eps=1e-7):
    """Conditional probabilities from cosines, pair by pair."""
    count, kernels = len(x_s), []
    for x in (x_s, x_t):
        kernel = np.zeros((count, count))
        for i, j in np.ndindex(kernel.shape):
            kernel[i, j] = (2 - scipy.spatial.distance.cosine(x[i], x[j])) / 2
        kernels.append([row / sum(row) for row in kernel])
    total = 0.0
    for s, t in zip(*kernels, strict=True):
        total += sum(q * math.log((q + eps) / (p + eps)) for p, q in zip(s, t, strict=True))
    return total / count**2


def sp(x_s, x_t):
    """Squared distance of the two matrices of inner products, rows of length 1."""
    total = 0.0
    for i in range(len(x_s)):
        rows = [np.array([x[i] @ other for other in x]) for x in (x_s, x_t)]
        total += sum((rows[0] / np.linalg.norm(rows[0]) - rows[1] / np.linalg.norm(rows[1])) ** 2)
    return total / len(x_s) ** 2


def crd_direction(embedding, memory, norm, rows, negatives, temperature=0.07, eps=1e-7):
    """One direction of CRD: the loss, and the Z of its first batch (norm None) or the one given.

    negatives: per sample the training rows it is told apart from.
    """
    scores = []  # per sample: its own, then its negatives'
    for v, row, others in zip(embedding, rows, negatives, strict=True):
        scores.append([math.exp(v @ memory[m] / temperature) for m in (row, *others)])
    if norm is None:
        every = [score for each in scores for score in each]
        norm = len(memory) * sum(every) / len(every)
    total = 0.0
    for own, *others in scores:
        noise = len(others) / len(memory)  # k · Pn
        total += math.log(own / norm / (own / norm + noise + eps))
        for score in others:
            total += math.log(noise / (score / norm + noise + eps))
    return -total / len(scores), norm


def crd_memory(memory, rows, embedding, momentum=0.5):
    """The memory after a batch: its rows moved towards the embeddings, length 1."""
    memory = memory.copy()
    for row, v in zip(rows, embedding, strict=True):
        moved = momentum * memory[row] + (1 - momentum) * v
        memory[row] = moved / np.linalg.norm(moved)
    return memory


def choose_unsure(z_t):
    """MLKD's masks: confidence of each sample, and what each class receives, at most the median."""
    p = np.array([soften(z) for z in z_t])
    confidence, mass = p.max(axis=1), p.sum(axis=0)
    return confidence <= np.median(confidence), mass <= np.median(mass)


def compare_products(s, t, rows):
    """Per row of s and t the squared distance of its inner products with all rows; those chosen."""
    total = 0.0
    for n in range(len(s)):
        if rows[n]:
            total += sum((t[n] @ t[m] - s[n] @ s[m]) ** 2 for m in range(len(s)))
    return total


@dataclass(frozen=True)
class Given:
    """What a method's terms are computed from.

    o: options that differ from the defaults. parameters: the method's own, by name. z, x, y:
    logits, features and labels; _s the student's, _t the teacher's; v: logits of the second view.
    progress: share of the epochs.
    """

    o: dict
    z_s: np.ndarray
    x_s: np.ndarray
    z_t: np.ndarray
    x_t: np.ndarray
    v_s: np.ndarray
    v_t: np.ndarray
    y: np.ndarray
    parameters: dict = field(default_factory=dict)
    progress: float = 1.0

    def project(self) -> np.ndarray:
        """The student's feature at the teacher's width."""
        if "projector.weight" not in self.parameters:
            return self.x_s
        return self.x_s @ self.parameters["projector.weight"].T + self.parameters["projector.bias"]


def none_terms(g):
    return {"task": cross_entropy(g.z_s, g.y)}


def kd_terms(g):
    task, soft = cross_entropy(g.z_s, g.y), kl(g.z_s, g.z_t, g.o.get("temperature", 4.0))
    return {"task": g.o.get("task_weight", 0.1) * task, "kd": g.o.get("weight", 0.9) * soft}


def dist_terms(g):
    inter, intra = dist(g.z_s, g.z_t, g.o.get("temperature", 4.0))
    weight = g.o.get("weight", 2.0)
    return {
        "task": cross_entropy(g.z_s, g.y),
        "inter": weight * g.o.get("beta", 1.0) * inter,
        "intra": weight * g.o.get("gamma", 1.0) * intra,
    }


def dml_terms(g, released=False):
    def pull(own, peer):
        total = 0.0
        for i, j in zip(own, peer, strict=True):
            p_i, p_j = soften(i), soften(j)
            if released:
                ratios = [1e-8 + b / (a + 1e-8) for a, b in zip(p_i, p_j, strict=True)]
                total += sum(b * math.log(ratio) for b, ratio in zip(p_j, ratios, strict=True))
            else:
                total += diverge(p_j, p_i)
        return g.o.get("weight", 1.0) * total / len(own)

    return {
        "task": cross_entropy(g.z_s, g.y),
        "kd": pull(g.z_s, g.z_t),
        "teacher_task": cross_entropy(g.z_t, g.y),
        "teacher_kd": pull(g.z_t, g.z_s),
    }


def nkd_terms(g):
    parts = nkd(g.z_s, g.z_t, g.y, g.o.get("gamma", 3.5), g.o.get("temperature", 3.0))
    target, others = (g.o.get("weight", 1.0) * part for part in parts)
    return {"task": cross_entropy(g.z_s, g.y), "target": target, "others": others}


def nckd_terms(g):
    others = nckd(g.z_s, g.z_t, g.y, g.o.get("temperature", 4.0))
    return {"task": cross_entropy(g.z_s, g.y), "others": g.o.get("weight", 1.0) * others}


def dkd_terms(g):
    """Of the recipe's 240 epochs the first 20 are the ramp."""
    share = g.o.get("warmup", 20 / 240)
    ramp = 1.0 if g.progress >= share else g.progress / share
    given = g.z_s, g.z_t, g.y, g.o.get("temperature", 4.0)
    return {
        "task": cross_entropy(g.z_s, g.y),
        "target": ramp * g.o.get("alpha", 1.0) * tckd(*given),
        "others": ramp * g.o.get("beta", 8.0) * nckd(*given),
    }


def feat_terms(g):
    distance = mse(g.project(), g.x_t, g.o.get("reduction", "mean"))
    return {"task": cross_entropy(g.z_s, g.y), "feature": g.o.get("weight", 1.0) * distance}


def mlkd_terms(g, released=False):
    """Released: what was to be masked is multiplied by the share that the mask keeps."""
    samples, classes = choose_unsure(g.z_t)
    kd = by_class = by_batch = 0.0
    for T in (2.0, 3.0, 4.0, 5.0, 6.0):
        s, t = (np.array([soften(row, T) for row in z]) for z in (g.z_s, g.z_t))
        rows = [T**2 * diverge(t[n], s[n]) for n in range(len(s))]
        plain_again = released and T in (2.0, 6.0)
        kd += kl(g.z_s, g.z_t, T) if plain_again else kl(g.v_s, g.v_t, T)
        if released:
            all_samples, all_classes = np.ones(len(s), bool), np.ones(s.shape[1], bool)
            kd += np.mean(rows) * np.mean(samples)
            by_class += compare_products(s.T, t.T, all_classes) / s.shape[1] * np.mean(classes)
            by_batch += compare_products(s, t, all_samples) / len(s) * np.mean(samples)
        else:
            kd += sum(row for row, kept in zip(rows, samples, strict=True) if kept) / len(rows)
            by_class += compare_products(s.T, t.T, classes) / s.shape[1]
            by_batch += compare_products(s, t, samples) / len(s)
    weight, task_weight = g.o.get("weight", 0.9), g.o.get("task_weight", 0.1)
    return {
        "task": task_weight * cross_entropy(g.z_s, g.y),
        "task_strong": task_weight * cross_entropy(g.v_s, g.y),
        "kd": weight * kd,
        "class": weight * by_class,
        "batch": weight * by_batch,
    }


GRIDS = {
    **{4: (2, 2), 12: (3, 4), 28: (4, 7), 40: (5, 8), 67: (1, 67)},
    **{100: (10, 10), 120: (10, 12), 200: (10, 20)},
}  # classes → rows and columns, by hand


def wavelet_bands(z, wavelet="haar", levels=1, mode="zero"):
    """Band → PyWavelets' coefficients of one sample's grid, the details one array per level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a level is deep for so small a grid
        low, *details = pywt.wavedec2(z.reshape(GRIDS[len(z)]), wavelet, mode, levels)
    across, along, both = zip(*details, strict=True)  # PyWavelets' horizontal, vertical, diagonal
    return {"LL": [low], "LH": across, "HL": along, "HH": both}


def wavelet_distance(z_s, z_t, o):
    """FiGKD's details, sample by sample and band by band."""
    order = np.arange(z_s.shape[1])
    if o.get("order") == "random":
        words = f"classes\x1f{len(order)}\x1f{o.get('order_seed', 0)}".encode()
        seed = int.from_bytes(hashlib.sha256(words).digest()[:8], "big") // 2
        order = np.random.default_rng(seed).permutation(len(order))
    kind = o.get("wavelet", "haar"), o.get("levels", 1), o.get("mode", "zero")
    power, total = {"l1": 1, "l2": 2}[o.get("distance", "l1")], 0.0
    for s, t in zip(z_s[:, order], z_t[:, order], strict=True):
        mine, theirs = wavelet_bands(s, *kind), wavelet_bands(t, *kind)
        for band in o.get("bands", "LH+HL+HH").split("+"):
            for a, b in zip(mine[band], theirs[band], strict=True):
                total += np.mean(np.abs(b - a) ** power)
    return total / len(z_s)


def figkd_terms(g):
    o = g.o
    views = {"": (g.z_s, g.z_t)} | ({"_strong": (g.v_s, g.v_t)} if o.get("two_view") else {})
    if o.get("base", "ce") == "ce":
        terms = {f"task{view}": cross_entropy(s, g.y) for view, (s, _) in views.items()}
    else:
        terms = mlkd_terms(replace(g, o={}), released=o["base"] == "mlkd_released")
    terms = {name: o.get("alpha", 1.0) * term for name, term in terms.items()}
    for view, pair in views.items():
        terms[f"details{view}"] = o.get("beta", 1.0) * wavelet_distance(*pair, o)
    return terms


def rkd_terms(g):
    distance = smooth_l1(measure_distances(g.x_s), measure_distances(g.x_t))
    angle = smooth_l1(measure_angles(g.x_s), measure_angles(g.x_t))
    return {
        "task": cross_entropy(g.z_s, g.y),
        "distance": g.o.get("distance_weight", 25.0) * distance,
        "angle": g.o.get("angle_weight", 50.0) * angle,
    }


def pkt_terms(g):
    return {
        "task": cross_entropy(g.z_s, g.y),
        "similarity": g.o.get("weight", 30000.0) * pkt(g.x_s, g.x_t),
    }


def fdcmkd_terms(g, with_teacher=True, soft=False):
    o, y = g.o, g.y
    on = {part: o.get(part, True) for part in ("frequency", "align", "scale", "log")}

    def cut(x):
        if not on["frequency"]:
            return {"feature": x}
        edge = math.floor(o.get("cutoff", 0.5) * (x.shape[1] // 2))
        if soft:
            edges = scipy.special.expit(g.parameters["edge"])
            runs = zip(np.split(x, len(edges), axis=1), edges, strict=True)
            parts = [split_softly(run, edge, o.get("softness", 0.05)) for run, edge in runs]
            found = {b: np.concatenate([p[b] for p in parts], axis=1) for b in ("low", "high")}
        elif o.get("basis", "dft") == "dct":
            found = split_cosine(x, edge)
        else:
            found = split(x, edge, o.get("dc", "drop"))
        kept = {"both": ("low", "high")}.get(o.get("bands", "both"), (o.get("bands"),))
        return {band: found[band] for band in kept}

    def score(kind, band, x):
        head = f"{kind}_heads.{'whole' if band == 'feature' else band}"
        weight, bias = (g.parameters[f"{head}.{part}"] for part in ("weight", "bias"))
        return cross_entropy(np.maximum(x, 0) @ weight.T + bias, y)

    mine, theirs = cut(g.project()), cut(g.x_t)
    terms = {"task": cross_entropy(g.z_s, y)}
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
