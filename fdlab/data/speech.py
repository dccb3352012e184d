"""Synthetic speech from eSpeak NG, called in process through `ctypes`, and noise to bury it in.

The library (GPL-3) and its voices come with the optional package `espeakng-loader`, which is
imported only inside the functions below.

eSpeak NG keeps state from one utterance to the next: the same request gives another number of
samples the second time. So every clip is spoken by a fresh copy of the library, which is loaded,
seeded, used once and unloaded. A clip then depends on the arguments of `speak` alone, whatever
was spoken before and in whichever process.

The library must not be used by two threads at once: run clips side by side in processes.
"""

from __future__ import annotations

import _ctypes
import ctypes
import difflib
import os
import sys
from pathlib import Path

import numpy as np
from scipy import signal

from fdlab.core.errors import UserError

TARGET_RMS = 0.1  # loudness of every clip; variants as delivered differ about tenfold
RATE_RANGE = (80, 450)  # words per minute that the library speaks without time compression
PITCH_RANGE = (0, 99)
WHITE_SHARE = 0.5  # of the power of `draw_noise`; the rest is shaped like speech
SILENCE = 0.01  # part of the peak below which the two ends of a clip count as silent

# Values of eSpeak NG's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_TEXT_IS_UTF8 = 1
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3
_POSITION_BY_CHARACTER = 1

_chunks: list[np.ndarray] = []


def _collect(samples, count, _events) -> int:
    """Keep one block of `count` int16 samples; returning 0 asks the library to go on."""
    if samples and count > 0:
        _chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
    return 0


# The library keeps only the address of the callback, so the object must outlive every call.
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)(_collect)


def list_variants() -> list[str]:
    """Sorted names of the voice variants, the part of a voice's name after `+`.

    Raises `UserError` where the speech library is not installed.
    """
    folder = _locate_variants()
    if not folder.is_dir():
        raise UserError(f"no voice variants in {folder}; expected a complete espeakng-loader")
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file())


def speak(text: str, *, voice: str, rate: int, pitch: int, seed: int) -> tuple[np.ndarray, int]:
    """Speak `text`; return the waveform and its sampling rate in Hz.

    `voice` is a language with an optional variant, as in `en`, `en-us+croak`, `en-029+f2`;
    `rate` is in words per minute, 80 to 450; `pitch` is 0 to 99, 50 being the voice's own;
    `seed` (0 or more) sets the breath of breathy voices; most voices have none. The waveform is
    float32 of shape (T,), without the silence around it, of root mean square `TARGET_RMS`; peaks
    are not clipped.

    Bit-equal for equal arguments on one machine. The C library's `rand` is reseeded on the way.
    Raises `UserError` for an unknown voice, a number out of range, a text without sound, or a
    speech library that is missing or in use by other code of this process.
    """
    _check_request(text, voice, rate, pitch, seed)
    library = _open_library()
    try:
        sample_rate = _start(library, seed)
        try:
            samples = _synthesise(library, text, voice, rate, pitch)
        finally:
            library.espeak_Terminate()
    finally:
        _close_library(library)
    return _normalise(samples, text, voice), sample_rate


def draw_noise(length: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Unit-variance noise (`length`,): a white part, and one with the spectrum and pace of speech.

    `sample_rate` is in Hz; `WHITE_SHARE` of the power is white.
    """
    white, shaped = rng.standard_normal((2, length))
    # Long-term speech falls by about 6 dB an octave above 500 Hz and pulses at about 4 Hz.
    shaped = signal.lfilter(*signal.butter(1, 500, fs=sample_rate), shaped)
    pace, phase = rng.uniform(3, 5), rng.uniform(0, 2 * np.pi)
    shaped *= 1 + 0.7 * np.sin(2 * np.pi * pace * np.arange(length) / sample_rate + phase)
    noise = np.sqrt(WHITE_SHARE) * white + np.sqrt(1 - WHITE_SHARE) * shaped / shaped.std()
    return noise / noise.std()


def _check_request(text: str, voice: str, rate: int, pitch: int, seed: int) -> None:
    """Raise `UserError` for what the library would take without a word of complaint."""
    if not text.strip() or "\0" in text:
        raise UserError(f"cannot speak {text!r}; expected a text with at least one word")
    if not RATE_RANGE[0] <= rate <= RATE_RANGE[1]:
        raise UserError(f"speech rate {rate} is out of range; expected {RATE_RANGE} words/minute")
    if not PITCH_RANGE[0] <= pitch <= PITCH_RANGE[1]:
        raise UserError(f"speech pitch {pitch} is out of range; expected {PITCH_RANGE}")
    if not 0 <= seed < 2**31:
        raise UserError(f"speech seed {seed} is out of range; expected 0 to 2**31 - 1")
    _, plus, variant = voice.partition("+")
    # An unknown variant falls back to the plain voice silently.
    if plus and variant not in (variants := list_variants()):
        near = ", ".join(difflib.get_close_matches(variant, variants)) or ", ".join(variants[-3:])
        raise UserError(
            f"unknown voice variant {variant!r}; expected one of list_variants(), such as {near}"
        )


def _import_loader():
    """The module `espeakng_loader`, or a `UserError` that tells how to install it."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(
            "the speech library espeakng-loader is not installed; "
            'expected after: pip install -c constraints.txt -e ".[speech]"'
        ) from error
    return espeakng_loader


def _locate_data() -> Path:
    """Folder of the library's phonemes, dictionaries and voices."""
    try:
        return Path(_import_loader().get_data_path())
    except RuntimeError as error:
        raise UserError(f"speech data are missing: {error}; reinstall espeakng-loader") from error


def _locate_variants() -> Path:
    """Folder that holds one file per voice variant."""
    return _locate_data() / "voices" / "!v"


def _open_library() -> ctypes.CDLL:
    """Load a copy of the library whose state is new."""
    path = _import_loader().get_library_path()
    if _is_loaded(path):
        raise UserError(
            "the speech library is already loaded in this process; "
            "expected no other user of eSpeak NG here (speak in a process of its own)"
        )
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise UserError(f"the speech library cannot be loaded: {error}") from error
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint,
        ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    return library


def _is_loaded(path: str) -> bool:
    """Whether this process holds the library already, so that loading it would not renew it."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return False
    try:
        held = ctypes.CDLL(path, mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    _close_library(held)
    return True


def _close_library(library: ctypes.CDLL) -> None:
    """Unload the library, and with it its state; Windows calls the same thing FreeLibrary."""
    close = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary", None)
    if close is None:
        raise UserError("this Python cannot unload a library; expected ctypes' dlclose")
    close(library._handle)


def _start(library: ctypes.CDLL, seed: int) -> int:
    """Initialise in synchronous mode and seed both random sources; return the rate in Hz."""
    # The path is that of the folder around espeak-ng-data; UTF-8 is what the library expects.
    path = os.fsencode(_locate_data().parent)
    sample_rate = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, path, _DO_NOT_EXIT)
    if sample_rate <= 0:
        raise UserError("the speech library found no data; expected a complete espeakng-loader")
    library.espeak_SetSynthCallback(_CALLBACK)
    library.espeak_ng_SetRandSeed(seed)
    # Some synthesis code draws from the C library's rand() rather than the library's own source.
    (ctypes.CDLL("ucrtbase") if sys.platform == "win32" else ctypes.CDLL(None)).srand(seed)
    return sample_rate


def _synthesise(library: ctypes.CDLL, text: str, voice: str, rate: int, pitch: int) -> np.ndarray:
    """Samples of `text`, int16 of shape (T,), as the library delivers them."""
    if library.espeak_SetVoiceByName(voice.encode("utf-8")) != 0:
        raise UserError(f"unknown voice {voice!r}; expected one such as 'en' or 'en-us+croak'")
    library.espeak_SetParameter(_PARAMETER_RATE, int(rate), 0)
    library.espeak_SetParameter(_PARAMETER_PITCH, int(pitch), 0)
    encoded = text.encode("utf-8") + b"\0"
    _chunks.clear()
    status = library.espeak_Synth(
        encoded, len(encoded), 0, _POSITION_BY_CHARACTER, 0, _TEXT_IS_UTF8, None, None
    )
    samples = np.concatenate(_chunks) if _chunks else np.zeros(0, np.int16)
    _chunks.clear()
    if status != 0:
        raise UserError(f"the speech library refused {text!r} with status {status}")
    return samples


def _normalise(samples: np.ndarray, text: str, voice: str) -> np.ndarray:
    """Cut the silent ends off `samples` (T,) and scale the rest to `TARGET_RMS`, float32."""
    wave = samples.astype(np.float64)
    peak = np.abs(wave).max(initial=0.0)
    if peak == 0:
        raise UserError(f"voice {voice!r} gave no sound for {text!r}; expected audible speech")
    loud = np.flatnonzero(np.abs(wave) >= SILENCE * peak)
    wave = wave[loud[0] : loud[-1] + 1]
    return (wave * (TARGET_RMS / np.sqrt(np.mean(wave**2)))).astype(np.float32)
