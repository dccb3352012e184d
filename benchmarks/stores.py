"""Time an epoch read from a store against decoding the files, and the memory of preparing one.

    python benchmarks/stores.py [--clips 48]

Makes clips of CREMA-D's kind (FLV of 480 x 360, two and a half seconds, and WAV at 16 kHz) in a
temporary folder and prepares them as the data set `cremad`. One thread. Prints JSON, seconds for
every event once (each the median of repeats in alternation):

    decode      the files, as preparing does it: sound, spectrogram, one frame per second
    rows        the same rows from the store, in shuffled batches of 64
    inputs      what a network takes: one frame of each row, cropped at random to 224 pixels,
                flipped and standardised; of this the first part any reader of files pays on top

ratio is decode over rows. Further the seconds of preparing, and the peak memory of a process that
prepares a quarter of the clips and of one that prepares all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from fdlab.core.device import peak_memory
from fdlab.data.cremad import CREMAD, CremadOptions
from fdlab.data.paired import PairedData
from fdlab.data.store import Store, prepare

REPEATS = 3
BATCH, RATE, FPS = 64, 16_000, 30
ACTORS, EMOTIONS = 4, ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
OPTIONS = {"split": "stratified"}


def main() -> None:
    parser = argparse.ArgumentParser(description="time a store against its files")
    parser.add_argument("--clips", type=int, default=96, help="a multiple of 24, from 96")
    parser.add_argument("--prepare", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.prepare:
        print(json.dumps(prepare_here(Path(asked.prepare))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["FDLAB_HOME"] = str(folder / "home")
        sizes = {"few": asked.clips, "many": 4 * asked.clips}
        for name, clips in sizes.items():
            write_clips(folder / name, clips)
        costs = {name: prepare_apart(folder / name) for name in sizes}
        times = time_epochs(folder / "few")
    found = {
        "device": f"{platform.machine()} CPU, 1 thread",
        "clips": asked.clips,
        **{f"{name}_seconds": round(seconds, 3) for name, seconds in times.items()},
        "ratio": round(times["decode"] / times["rows"], 1),
        "prepare": {name: costs[name] | {"clips": sizes[name]} for name in sizes},
    }
    print(json.dumps(found, indent=1))


def write_clips(root: Path, count: int) -> None:
    """Every clip of smooth noise of its own; a clip of later rounds is a copy of an earlier one's
    bytes under its own name, as encoding is slow and decoding the same."""
    import av
    import soundfile

    rng = np.random.default_rng(0)
    for part in ("AudioWAV", "VideoFlash"):
        (root / part).mkdir(parents=True)
    made: list[tuple[bytes, bytes]] = []
    for place in range(count):
        actor, emotion = 1001 + place // len(EMOTIONS) % ACTORS, EMOTIONS[place % len(EMOTIONS)]
        first, second = divmod(place // (ACTORS * len(EMOTIONS)), 26)
        stem = f"{actor}_S{chr(65 + first)}{chr(65 + second)}_{emotion}_XX"
        wav, flv = root / "AudioWAV" / f"{stem}.wav", root / "VideoFlash" / f"{stem}.flv"
        if place < len(EMOTIONS):
            soundfile.write(wav, 0.1 * rng.standard_normal(5 * RATE // 2), RATE)
            with av.open(str(flv), "w", format="flv") as container:
                stream = container.add_stream("flv1", rate=FPS)
                stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
                stream.bit_rate = 800_000
                scene = rng.integers(0, 255, (45, 60, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                for number in range(5 * FPS // 2):
                    frame = av.VideoFrame.from_ndarray(np.roll(scene, number, axis=1), "rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
            made.append((wav.read_bytes(), flv.read_bytes()))
        sound, picture = made[place % len(EMOTIONS)]
        wav.write_bytes(sound)
        flv.write_bytes(picture)


def prepare_apart(root: Path) -> dict[str, float]:
    """`prepare_here` in a process of its own, whose peak memory is then its own too."""
    command = [sys.executable, __file__, "--prepare", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def prepare_here(root: Path) -> dict[str, float]:
    start = time.perf_counter()
    store = open_store(root)
    size = sum(path.stat().st_size for path in store.folder.iterdir())
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "peak_mb": round(peak_memory() / 1e6, 1),
        "store_mb": round(size / 1e6, 1),
    }


def open_store(root: Path) -> Store:
    return prepare(root.name, OPTIONS, root, "cremad", workers=1)


def time_epochs(root: Path) -> dict[str, float]:
    store, options = open_store(root), CremadOptions(**OPTIONS)
    events = CREMAD.source.list_events(root, options).events
    data = PairedData.load(store, ["visual", "audio"], torch.device("cpu"), 224)
    generator = torch.Generator().manual_seed(0)
    frames, sounds = store.read("visual"), store.read("audio")

    def decode() -> None:
        for event in events:
            CREMAD.source.decode(root, event, options)

    def shuffle() -> tuple[torch.Tensor, ...]:
        return torch.randperm(len(events), generator=generator).split(BATCH)

    def read_rows() -> None:
        for part in shuffle():
            for array in (frames, sounds):
                torch.from_numpy(np.asarray(array[part.sort().values.numpy()]))

    def read_inputs() -> None:
        for part in shuffle():
            data.batch("visual", part, data.draw("visual", len(part), generator))
            data.batch("audio", part)

    ways = {"decode": decode, "rows": read_rows, "inputs": read_inputs}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, epoch in ways.items():
            start = time.perf_counter()
            epoch()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        main()
