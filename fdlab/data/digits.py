"""The embedded data set `digits`: a digit seen, heard and read about, made on this machine.

Every event has an image of a real handwritten digit (degraded), a spoken digit in noise (speech
synthesis) and a sentence that says or implies it. Given the digit the three are independent.

Speech is made in worker processes started by `spawn`: a script that calls `build` with two or
more workers must do so under `if __name__ == "__main__":`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, signal

from fdlab.core.errors import UserError
from fdlab.data import sentences, speech
from fdlab.data.dataset import SPLITS, Built, Dataset, Modality
from fdlab.data.drawn import choose_events, draw_generator, split_evenly, work_all

EVENTS = 1797  # all of scikit-learn's digits, each used once
HELD_OUT = (300, 500)  # events of the validation and test splits; the rest is for training
SMALLEST_LIMIT = 80  # below this a class may be missing from a split

# What a generator's numbers are for. None is 0: numpy seeds [s, e] and [s, e, 0] alike.
_SPLIT, _VOICES, _IMAGE, _SPEECH, _NOISE, _TEXT = range(1, 7)
_WHOLE_SET = EVENTS  # stands for the event in draws that concern the whole set

IMAGE_SIDE = 32
ROTATION = 15.0  # degrees, at most, either way
ZOOM = (0.8, 1.1)
SHIFT = 3.0  # pixels, at most, either way
CONTRAST = (0.4, 1.0)  # ink over background, 1 being black on white
BACKGROUND = (0.0, 0.3)

ACCENTS = (
    "en", "en-us", "en-us-nyc", "en-029", "en-gb-scotland",
    "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
)  # fmt: skip
RATE = (160, 260)  # words per minute; the slowest voice still says any digit within a second
PITCH = (20, 80)
WAVEFORM_RATE = 8000  # Hz
WAVEFORM_LENGTH = 8000  # samples, one second
CLIP_RMS = 0.1  # of a noisy clip, full scale being 1

# 129 bins x 64 frames that span 7942 of the 8000 samples; averaged 4 x 2 to 32 x 32 without DC.
NPERSEG, NOVERLAP = 256, 134
BANDS, FRAMES = 32, 32
LOG_FLOOR = 1e-7

SENTENCE_LENGTH = 28  # tokens; the longest sentence that the templates allow has 27

NOTE = (
    "Image: real handwritten digits (UCI optical recognition of handwritten digits, 8 x 8, from "
    "scikit-learn), enlarged to 32 x 32, moved, turned, faded, occluded and made noisy. "
    "Audio: synthetic; one word spoken by eSpeak NG, placed at random in one second of synthetic "
    "noise. Text: synthetic; hand-written templates filled at random. The three modalities of an "
    "event share the digit and nothing else. Voice variants and sentence templates are disjoint "
    "between the splits; which hand wrote a digit is not known, so writers may recur."
)


@dataclass(frozen=True)
class DigitsConfig:
    """How `digits` is made.

    seed: sets everything random. limit: number of events to keep, 80 to 1797, stratified by split
    and class; 0 keeps all. snr_db: speech over noise in dB, over the word's own duration.
    image_noise: standard deviation of the pixel noise, black to white being 1. occlusion: mean
    part of the image's area that a rectangle hides, 0 to 0.6.
    """

    seed: int = 0
    limit: int = 0
    snr_db: float = 15.0
    image_noise: float = 0.18
    occlusion: float = 0.1

    def __post_init__(self):
        limit = self.limit or EVENTS
        for name, is_fine, expected in (
            ("seed", self.seed >= 0, "0 or more"),
            ("limit", SMALLEST_LIMIT <= limit <= EVENTS, f"{SMALLEST_LIMIT} to {EVENTS}"),
            ("snr_db", abs(self.snr_db) <= 100, "-100 to 100"),
            ("image_noise", 0 <= self.image_noise <= 10, "0 to 10"),
            ("occlusion", 0 <= self.occlusion <= 0.6, "0 to 0.6"),
        ):
            if not is_fine:
                raise UserError(f"{name} is {getattr(self, name)}: expected {expected}")


@dataclass(frozen=True)
class SpeechTask:
    """One clip to speak and to bury in noise; a worker needs nothing else."""

    config: DigitsConfig
    event: int
    text: str
    voice: str
    rate: int
    pitch: int


def build(
    config: DigitsConfig,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Built:
    """Make the data set; `progress` is told the number of clips done and to do.

    image: (N, 1, 32, 32) uint8. audio: (N, 1, 32, 32) float16, rows low to high frequency,
    columns in time, standardised by the training split. text: (N, 28) int32. Rows are in the
    order of scikit-learn's digits. The result does not depend on `workers`; one worker means this
    process. An event is the same under any `limit`, except for the audio's standardisation and
    for the vocabulary. Raises `UserError` where the speech library is missing.
    """
    if workers < 1:
        raise UserError(f"digits: workers is {workers}; expected 1 or more")
    variants = assign_variants(config)
    pixels, labels = load_handwriting()
    split = assign_splits(labels, config.seed)
    events = choose_events(labels, split, config.limit)
    tasks = [plan_speech(config, e, int(labels[e]), variants[split[e]]) for e in events]
    clips = []
    for clip in work_all(record_clip, tasks, workers, chunk=16):
        clips.append(clip)
        progress(len(clips), len(tasks))
    waveform = np.stack(clips)
    images = np.stack([render_image(pixels[e], config, e) for e in events])
    written = [
        sentences.compose(int(labels[e]), SPLITS[split[e]], draw_generator(config.seed, e, _TEXT))
        for e in events
    ]
    labels, split = labels[events], split[events]
    logs = compute_spectrograms(waveform)
    mean, std = float(logs[split == 0].mean()), float(logs[split == 0].std())
    texts = [sentence for sentence, _ in written]
    vocabulary = sentences.build_vocabulary(t for t, s in zip(texts, split, strict=True) if s == 0)
    return Built(
        modalities={
            "image": images[:, None],
            "audio": ((logs - mean) / std).astype(np.float16)[:, None],
            "text": sentences.encode(texts, vocabulary, SENTENCE_LENGTH),
        },
        labels=labels,
        split=split,
        ids={
            "image": [str(e) for e in events],
            "voice": [task.voice for task in tasks],
            "sentence": texts,
            "template": [str(template) for _, template in written],
        },
        extras={"waveform": waveform},
        info=_describe(split, variants)
        | {"audio_mean": mean, "audio_std": std, "vocabulary": vocabulary},
    )


def load_handwriting() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: (1797, 8, 8) float64 from 0 (paper) to 1 (ink), and int64 labels."""
    from sklearn.datasets import load_digits  # slow to import, and the workers do not need it

    digits = load_digits()
    return digits.images / 16.0, digits.target.astype(np.int64)


def assign_splits(labels: np.ndarray, seed: int) -> np.ndarray:
    """Split of every event, uint8 (1797,): 997 / 300 / 500 events, each stratified by class."""
    return split_evenly(labels, HELD_OUT, draw_generator(seed, _WHOLE_SET, _SPLIT))


def assign_variants(config: DigitsConfig) -> list[list[str]]:
    """Voice variants of the three splits, disjoint, in the proportions of the splits."""
    names = np.array(speech.list_variants())
    shuffled = draw_generator(config.seed, _WHOLE_SET, _VOICES).permutation(names)
    validation, test = (round(len(names) * count / EVENTS) for count in HELD_OUT)
    parts = np.split(shuffled, [len(names) - validation - test, len(names) - test])
    return [sorted(part.tolist()) for part in parts]


def plan_speech(
    config: DigitsConfig, event: int, label: int, variants: Sequence[str]
) -> SpeechTask:
    """Draw the voice, rate and pitch of an event's clip."""
    rng = draw_generator(config.seed, event, _SPEECH)
    voice = f"{rng.choice(ACCENTS)}+{rng.choice(variants)}"
    rate, pitch = (int(rng.integers(low, high + 1)) for low, high in (RATE, PITCH))
    return SpeechTask(config, int(event), sentences.WORDS[label], voice, rate, pitch)


def record_clip(task: SpeechTask) -> np.ndarray:
    """One second of speech in noise at 8 kHz, int16 (8000,)."""
    word, rate = speech.speak(
        task.text, voice=task.voice, rate=task.rate, pitch=task.pitch, seed=task.event
    )
    word = signal.resample_poly(word.astype(np.float64), WAVEFORM_RATE, rate)
    if len(word) > WAVEFORM_LENGTH:
        raise UserError(f"{task} takes {len(word)} samples; expected at most {WAVEFORM_LENGTH}")
    word /= np.sqrt(np.mean(word**2))
    rng = draw_generator(task.config.seed, task.event, _NOISE)
    clip = 10 ** (-task.config.snr_db / 20) * speech.draw_noise(WAVEFORM_LENGTH, WAVEFORM_RATE, rng)
    start = int(rng.integers(0, WAVEFORM_LENGTH - len(word) + 1))
    clip[start : start + len(word)] += word
    clip *= CLIP_RMS / np.sqrt(np.mean(clip**2))
    return np.round(32767 * np.clip(clip, -1, 1)).astype(np.int16)


def compute_spectrograms(waveform: np.ndarray) -> np.ndarray:
    """Log power of int16 clips (N, 8000): float64 (N, 32, 32), 125 Hz by 30.5 ms a cell."""
    logs = np.empty((len(waveform), BANDS, FRAMES))
    for row, clip in enumerate(waveform):
        _, _, power = signal.spectrogram(
            clip / 32768.0, WAVEFORM_RATE, nperseg=NPERSEG, noverlap=NOVERLAP
        )
        cells = power[1:].reshape(BANDS, -1, FRAMES, power.shape[1] // FRAMES).mean(axis=(1, 3))
        logs[row] = np.log(cells + LOG_FLOOR)
    return logs


def render_image(pixels: np.ndarray, config: DigitsConfig, event: int) -> np.ndarray:
    """Degraded uint8 (32, 32) picture of a handwritten digit (8, 8) with values 0 to 1."""
    rng = draw_generator(config.seed, event, _IMAGE)
    image = _enlarge(pixels, rng)
    image = rng.uniform(*BACKGROUND) + rng.uniform(*CONTRAST) * image
    image[_draw_rectangle(rng, config.occlusion)] = rng.uniform()  # any grey
    image += config.image_noise * rng.standard_normal(image.shape)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _enlarge(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cubic enlargement (8, 8) → (32, 32) with a small random turn, zoom and shift."""
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    step = pixels.shape[0] / IMAGE_SIDE / rng.uniform(*ZOOM)
    turn = step * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (IMAGE_SIDE - 1) / 2 + rng.uniform(-SHIFT, SHIFT, size=2)
    offset = (pixels.shape[0] - 1) / 2 - turn @ centre
    large = ndimage.affine_transform(pixels, turn, offset, (IMAGE_SIDE, IMAGE_SIDE), order=3)
    return np.clip(large, 0, 1)


def _draw_rectangle(rng: np.random.Generator, occlusion: float) -> tuple[slice, slice]:
    """Rows and columns of a rectangle whose area is on average `occlusion` of the image."""
    area = occlusion * rng.uniform(0.5, 1.5) * IMAGE_SIDE**2
    aspect = 2 ** rng.uniform(-1, 1)
    sides = np.minimum(IMAGE_SIDE, np.round(np.sqrt([area * aspect, area / aspect])).astype(int))
    corner = rng.integers(0, IMAGE_SIDE - sides + 1)
    return tuple(slice(c, c + s) for c, s in zip(corner.tolist(), sides.tolist(), strict=True))


def _describe(split: np.ndarray, variants: list[list[str]]) -> dict:
    """Facts for the manifest: sources, rates, and what each split holds."""
    return {
        "note": NOTE,
        "events": {name: int((split == i).sum()) for i, name in enumerate(SPLITS)},
        "templates": {name: len(sentences.list_templates(name)) for name in SPLITS},
        "variants": dict(zip(SPLITS, variants, strict=True)),
        "accents": list(ACCENTS),
        "speech": f"espeakng-loader {importlib.metadata.version('espeakng-loader')}",
        "waveform_rate": WAVEFORM_RATE,
        "spectrogram": {"nperseg": NPERSEG, "noverlap": NOVERLAP, "log_floor": LOG_FLOOR},
        "sentence_length": SENTENCE_LENGTH,
    }


DIGITS = Dataset(
    name="digits",
    summary="real handwritten digits, synthetic speech and sentences; made here, no download",
    classes=10,
    modalities={
        "image": Modality("resnet18", "shift"),
        "audio": Modality("resnet18"),
        "text": Modality("textcnn"),
    },
    options=DigitsConfig,
    build=build,
    directions=("audio2image", "image2audio"),
)

# The same store as a text-image set with a BERT, which starts from nothing here and takes Adam at a
# larger rate than a pretrained one; chosen on the sentences alone.
ADAM = {"optimiser": "adam", "learning_rate": 1e-3, "final_learning_rate": 1e-4}
DIGITS_TEXT = replace(
    DIGITS,
    name="digits_text",
    summary="the images and sentences of digits, with ResNet-18 and a tiny BERT",
    modalities={"image": Modality("resnet18", "shift"), "text": Modality("bert_tiny")},
    directions=("text2image", "image2text"),
    store="digits",
    recipes={
        preset: {"text": ADAM | ({"epochs": 8} if preset == "quick" else {})}
        for preset in ("smoke", "quick", "reduced", "paper")
    },
    presets={"quick": {"seeds": (0, 1), "directions": ("text2image",)}},
)
