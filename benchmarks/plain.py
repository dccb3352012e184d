"""A plain training loop, written the way that FD-CMKD's released code works.

Both directions train at once: four networks per step, two frozen teachers and two students, in
float32 and the ordinary memory layout, with torch's own number of threads. A `DataLoader` with
worker processes reads a JPEG and a pickled float64 spectrogram of every sample, augments and
standardises on the CPU. Losses are read back in every step, and the judged events after every
epoch.

Where an author has a choice, it is the one that is kind to this loop: 24 workers, or one for every
core where there are fewer; they stay alive between epochs, since an epoch is short here; their
memory is pinned for a GPU; files are as small as the stored images, and few enough to stay in the
system's memory; a spectrogram leaves its worker in float32; a batch is loaded once for both
directions; right answers are counted once per batch and not once per sample.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.losses import plain_fdcmkd
from benchmarks.shapes import AUDIO, DIRECTIONS, IMAGE, Shape
from fdlab.core.device import cores
from fdlab.core.progress import say
from fdlab.methods.base import Method
from fdlab.models.output import ModelOutput
from fdlab.models.resnet import initialise

WORKERS = 24
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random resized crop
SHIFT = 2  # pixels
SHARED_MEMORY = Path("/dev/shm")


def count_plain_threads() -> int:
    """What torch takes where nobody says otherwise."""
    return cores() if "OMP_NUM_THREADS" in os.environ else torch.get_num_threads()


class Block(nn.Module):
    """A residual block as it is usually written; last: without the ReLU at its end."""

    def __init__(self, in_channels: int, channels: int, stride: int, last: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y = y + (x if self.downsample is None else self.downsample(x))
        return y if self.last else torch.relu(y)


class PlainResNet(nn.Module):
    """ResNet-18 by its ordinary modules, with the package's parameter names."""

    def __init__(self, in_channels: int, classes: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        for place in range(4):
            before, after, last = sizes[place], sizes[place + 1], place == 3
            stage = nn.Sequential(
                Block(before, after, 2 if place else 1), Block(after, after, 1, last)
            )
            setattr(self, f"layer{place + 1}", stage)
        self.fc = nn.Linear(8 * width, classes)
        self.apply(initialise)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return ModelOutput(self.fc(torch.relu(x).mean(dim=(2, 3))), x.mean(dim=(2, 3)))


def count_loaders(shape: Shape) -> int:
    """Worker processes: 24, or one for every core; fewer where the memory that they share with the
    loop, as in many containers, does not hold their batches, two of each."""
    wanted = min(WORKERS, cores())
    if not SHARED_MEMORY.is_dir():
        return wanted
    size = 4 * shape.batch * (math.prod(shape.audio) + math.prod(shape.image))
    fit = shutil.disk_usage(SHARED_MEMORY).free // (2 * size)
    if fit < wanted:
        say(f"{SHARED_MEMORY} holds the batches of {fit} workers, not of {wanted}")
    return max(1, min(fit, wanted))


def copy_plain(network: nn.Module, device: torch.device) -> PlainResNet:
    """The plain network with another one's weights and batch statistics."""
    state = network.state_dict()
    classes, channels = len(state["fc.bias"]), state["conv1.weight"].shape
    plain = PlainResNet(channels[1], classes, channels[0])
    plain.load_state_dict({k: v.contiguous() for k, v in state.items()})
    return plain.to(device)


class Files(Dataset):
    """Some events of the files that `write_files` made in this run's own temporary folder.

    augment: "crop_flip", "shift", or "" to see images whole. scale: mean and 1 / deviation of the
    images' levels, 0 to 255.
    """

    def __init__(
        self,
        folder: Path,
        shape: Shape,
        events: list[int],
        labels: list[int],
        scale: tuple[float, float],
        augment: str,
    ):
        self.folder, self.shape, self.events, self.labels = folder, shape, events, labels
        self.mean, self.factor, self.augment = scale[0] / 255, scale[1] * 255, augment

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        event = self.events[place]
        # A pickle can run code when it is read. Only those are read here that this process wrote
        # itself, a moment ago, into a temporary folder of its own.
        with (self.folder / f"{event}.pkl").open("rb") as handle:
            sound = torch.from_numpy(pickle.load(handle)).unsqueeze(0).float()
        with Image.open(self.folder / f"{event}.jpg") as file:
            picture = file.convert("L" if self.shape.image[0] == 1 else "RGB")
        return sound, self.standardise(self.look(picture)), self.labels[place]

    def look(self, picture: Image.Image) -> Image.Image:
        """The picture at the network's size, augmented."""
        height, width = self.shape.image[1:]
        if self.augment == "crop_flip":
            picture = picture.resize(
                (width, height), Image.Resampling.BILINEAR, box=draw_box(*picture.size)
            )
            if random.random() < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        elif picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        return picture

    def standardise(self, picture: Image.Image) -> torch.Tensor:
        """(C, H, W) float32 of mean 0 and deviation 1."""
        pixels = np.asarray(picture)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.augment == "shift":
            pixels = shift_pixels(pixels)
        values = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float().div(255)
        return values.sub_(self.mean).mul_(self.factor)


def draw_box(width: int, height: int) -> tuple[int, int, int, int]:
    """A random resized crop's box (left, top, right, bottom), drawn until it fits."""
    for _ in range(10):
        area = width * height * random.uniform(*AREA)
        aspect = np.exp(random.uniform(np.log(ASPECT[0]), np.log(ASPECT[1])))
        wide, high = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < wide <= width and 0 < high <= height:
            left, top = random.randint(0, width - wide), random.randint(0, height - high)
            return left, top, left + wide, top + high
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def shift_pixels(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) moved by up to `SHIFT` pixels a side, edges repeated."""
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    row, column = random.randint(0, 2 * SHIFT), random.randint(0, 2 * SHIFT)
    return padded[row : row + height, column : column + width]


class PlainLoop:
    """Networks, loaders and optimiser of both directions, ready for an epoch.

    networks: direction → (teacher, student, method), of which copies train here.
    """

    def __init__(
        self,
        shape: Shape,
        folder: Path,
        labels: np.ndarray,
        scale: tuple[float, float],
        networks: dict[str, tuple[nn.Module, nn.Module, Method]],
        device: torch.device,
    ):
        self.shape, self.device = shape, device
        self.teachers = {d: copy_plain(t, device).eval() for d, (t, _, _) in networks.items()}
        self.students = {d: copy_plain(s, device) for d, (_, s, _) in networks.items()}
        self.methods = {d: copy.deepcopy(m).to(device) for d, (_, _, m) in networks.items()}
        trained = [*self.students.values(), *self.methods.values()]
        self.optimiser = torch.optim.SGD(
            [p for part in trained for p in part.parameters()],
            lr=shape.learning_rate,
            momentum=0.9,
        )
        train = shape.counts[0]
        self.loaders = {
            "train": self.load(folder, labels[:train], 0, scale, shape.augment),
            "judged": self.load(folder, labels[train:], train, scale, ""),
        }

    def load(
        self, folder: Path, labels: np.ndarray, first: int, scale: tuple, augment: str
    ) -> DataLoader:
        events = list(range(first, first + len(labels)))
        files = Files(folder, self.shape, events, labels.tolist(), scale, augment)
        return DataLoader(
            files,
            batch_size=self.shape.batch,
            shuffle=first == 0,
            num_workers=count_loaders(self.shape),
            pin_memory=self.device.type == "cuda",
            persistent_workers=True,
        )

    def count_bytes(self) -> int:
        """Of networks and of the optimiser's state, which stay on the device between epochs."""
        parts = [*self.teachers.values(), *self.students.values(), *self.methods.values()]
        held = [x for part in parts for x in part.state_dict().values()]
        held += [x for state in self.optimiser.state.values() for x in state.values()]
        return sum(x.numel() * x.element_size() for x in held if isinstance(x, torch.Tensor))

    def time_epoch(self) -> float:
        """Seconds of one epoch with its evaluation."""
        start = time.perf_counter()
        self.train()
        self.judge()
        return time.perf_counter() - start

    def train(self) -> dict[str, float]:
        """One epoch; direction → mean loss."""
        for student in self.students.values():
            student.train()
        totals, count = dict.fromkeys(DIRECTIONS, 0.0), 0
        for sound, picture, label in self.loaders["train"]:
            inputs = {AUDIO: sound.to(self.device), IMAGE: picture.to(self.device)}
            losses = self.step(inputs, label.to(self.device))
            count += 1
            for direction, loss in losses.items():
                totals[direction] += loss
        return {direction: total / count for direction, total in totals.items()}

    def step(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> dict[str, float]:
        """One step of both directions; direction → loss before it."""
        losses = {}
        for direction, (teacher, student) in DIRECTIONS.items():
            with torch.no_grad():
                theirs = self.teachers[direction](inputs[teacher])
            mine = self.students[direction](inputs[student])
            losses[direction] = plain_fdcmkd(self.methods[direction], mine, theirs, labels)
        self.optimiser.zero_grad()
        sum(losses.values()).backward()
        self.optimiser.step()
        return {direction: loss.item() for direction, loss in losses.items()}

    @torch.no_grad()
    def judge(self) -> dict[str, float]:
        """`<direction>/<head>` → share of right answers among all judged events."""
        for student in self.students.values():
            student.eval()
        right: dict[str, float] = {}
        for sound, picture, label in self.loaders["judged"]:
            inputs = {AUDIO: sound.to(self.device), IMAGE: picture.to(self.device)}
            label = label.to(self.device)
            for direction, (_, student) in DIRECTIONS.items():
                output = self.students[direction](inputs[student])
                for head, scores in self.methods[direction].predict(output).items():
                    name = f"{direction}/{head}"
                    found = (functional.softmax(scores, dim=1).argmax(dim=1) == label).sum().item()
                    right[name] = right.get(name, 0.0) + found
        judged = sum(self.shape.counts[1:])
        return {name: value / judged for name, value in right.items()}

    def close(self) -> None:
        """End the worker processes."""
        self.loaders.clear()
