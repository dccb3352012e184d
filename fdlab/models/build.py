"""Networks for the sides of a data set, and weights from a file, a folder or the hub."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fdlab.core.errors import UserError
from fdlab.core.seeding import derive_seed
from fdlab.data.store import Store
from fdlab.models import MODELS
from fdlab.models.network import Network

HUB = "hub:"  # before the name of a repository
HUB_NAME = re.compile(r"([A-Za-z0-9_-][\w.-]*/)?[A-Za-z0-9_-][\w.-]*", re.ASCII)
FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder or repository, the first there is
SHOWN = 20  # names in a message


def build_model(
    store: Store,
    modality: str,
    *,
    width: int,
    seed: int,
    network: str = "",
    start: str = "",
    pretrained: bool = True,
) -> nn.Module:
    """The network of one side of a data set, initialised from (seed, modality) alone, or another
    `network`, a name in the table of networks, initialised from (seed, modality, network).

    The modality takes part, so that two sides under one seed never start from the same weights:
    networks that do stay aligned channel by channel, which looks like shared content. start: the
    modality whose initialisation is taken instead, to show just that; the two networks must be of
    one kind and take inputs of one number of channels.

    Where the store holds `weights_<modality>`, its own network starts from those, and the seed
    draws what they leave out: its classifier. pretrained: False where all weights are replaced
    anyway.
    """
    dataset = store.dataset
    shape = store.read(modality).shape[1:]
    own = dataset.modalities[modality].model
    if start and not have_same_network(store, modality, start):
        raise UserError(f"{modality} cannot start as {start}: their networks differ")
    with torch.random.fork_rng(devices=[]):
        name = network or own
        other = (name,) if name != own else ()
        torch.manual_seed(derive_seed(seed, "init", start or modality, *other))
        words = len(store.info.get("vocabulary", ()))
        model = MODELS[name](shape, dataset.classes, width, words)
    weights = store.find_weights(start or modality) if pretrained and name == own else None
    if weights is not None:
        try:
            load_weights(model, weights)
        except UserError as error:
            raise UserError(
                f"{error}; {modality} has {name} of width {width}, published weights are of width "
                "64 (preset paper, or --width 64)"
            ) from None
    return model


def have_same_network(store: Store, one: str, two: str) -> bool:
    """Whether one side's network may start from the other's weights."""
    sides = store.dataset.modalities
    channels = [store.read(name).shape[1:][-3:-2] for name in (one, two)]  # of tokens ()
    return sides[one].model == sides[two].model and channels[0] == channels[1]


def place(model: nn.Module, device: torch.device, channels_last: bool = True) -> nn.Module:
    """Move a network to its device, in the memory layout that is fastest and safe there, or in the
    ordinary one.

    Channels-last is about 1.2 times as fast on the CPU. With fewer than eight channels a side, the
    CPU's channels-last convolution of torch 2.13 writes outside its buffers in the backward pass
    and the process dies, so such networks keep the ordinary layout. One channel a side, as in a
    convolution of each channel by itself, is another routine and safe. Each group of a
    grouped convolution is held to the same, which is our caution: no failure of one is known.
    """
    sizes = [size for p in model.parameters() if p.ndim == 4 for size in p.shape[:2]]
    narrow = any(1 < size < 8 and size != 3 for size in sizes)
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            each = part.in_channels // part.groups, part.out_channels // part.groups
            narrow |= any(1 < size < 8 for size in each)
    if not channels_last or (device.type == "cpu" and narrow):
        return model.to(device)
    return model.to(device, memory_format=torch.channels_last)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from `.safetensors`, or from a PyTorch file that holds tensors alone."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"{path} holds no readable weights: {reason}") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        found = f"the keys {list(state)[:3]}" if isinstance(state, dict) else type(state).__name__
        raise UserError(f"{path}: expected a dict of names to tensors, found {found}")
    return state


def find_weights(source: str | Path) -> Path:
    """The local file behind a file, a folder in Hugging Face's layout, or `hub:NAME`, which is
    fetched through huggingface_hub once."""
    if str(source).startswith(HUB):
        if not HUB_NAME.fullmatch(str(source).removeprefix(HUB)):
            raise UserError(f"{source!r} names no repository: expected {HUB}NAME, {HUB}OWNER/NAME")
        return _fetch(str(source).removeprefix(HUB))
    path = Path(source)
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            raise UserError(f"{path} holds no weights: expected {' or '.join(FILES)} in it")
        return found[0]
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    return path


@cache
def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(
            f'{HUB}{name} needs huggingface_hub: `pip install "fdlab[hub]"`, or name a local file'
        ) from None
    reason = f"the repository holds no {' and no '.join(FILES)}"
    for file in FILES:
        try:
            return Path(hf_hub_download(name, file))
        except LocalEntryNotFoundError:
            reason = "the hub cannot be reached, and there is no earlier copy of it"
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            break
    raise UserError(f"{HUB}{name} cannot be fetched: {reason}; a local file or folder would do")


def load_weights(model: Network, source: str | Path) -> list[str]:
    """Load weights (see `find_weights`) under the model's own parameter names, or those that it
    knows how to translate. Everything must fit but, and this is returned in words:

    - a classifier for another number of classes is left out: the model keeps its own;
    - so is what `optional` says that published weights may lack, where they lack all of it;
    - of a first convolution for three channels, where the model has one, the filters are summed: a
      grey image gives what it gave as three equal channels;
    - the counters of batch norm that old files lack, which is not said, for nothing depends on it.
    """
    path = find_weights(source)
    return fit_state(model, model.translate(read_weights(path)), path)


def fit_state(model: Network, state: dict[str, torch.Tensor], path: Path) -> list[str]:
    """Load a state dict under the model's own names, which comes from a file; see `load_weights`
    for what fits."""
    own = model.state_dict()
    state, notes = _adapt(state, own, model)
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        parts = {"missing": missing, "unexpected": extra}
        listed = "; ".join(f"{kind} {_list(names)}" for kind, names in parts.items() if names)
        raise UserError(f"{path} does not fit: {listed}")
    shapes = [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if value.shape != state[name].shape
    ]
    if shapes:
        raise UserError(f"{path} does not fit: other shapes {_list(shapes)}")
    model.load_state_dict(state)
    return notes


def _adapt(
    state: dict[str, torch.Tensor], own: dict[str, torch.Tensor], model: Network
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """What `load_weights` makes fit, and a line about each."""
    state, notes = dict(state), []
    names = [f"{model.head}.{part}" for part in ("weight", "bias")]
    if all(name in state and name in own for name in names):
        weight, bias = (state[name] for name in names)
        classes = len(own[names[0]])
        if len(bias) != classes and weight.shape == (len(bias), *own[names[0]].shape[1:]):
            state |= {name: own[name] for name in names}
            notes.append(f"left out: {model.head} for {len(bias)} classes, not {classes}")
    for part in model.optional:
        if not any(name.startswith(part) for name in state):
            state |= {name: value for name, value in own.items() if name.startswith(part)}
            notes.append(f"not there: {part.removesuffix('.')}, which stays as it was drawn")
    if model.entry in state and model.entry in own:
        entry, mine = state[model.entry], own[model.entry]
        if entry.ndim == 4 and (entry.shape[1], mine.shape[1]) == (3, 1):
            state[model.entry] = entry.sum(dim=1, keepdim=True)  # (O, 3, k, k) → (O, 1, k, k)
            notes.append(f"summed over its three channels: {model.entry}")
    counters = {name for name in own if name.endswith(".num_batches_tracked")}
    state |= {name: own[name] for name in counters - set(state)}
    return state, notes


def _list(names: list[str]) -> str:
    """How many names, and the first of them.

    >>> _list(["a", "b", "c"])
    '3 (a, b, c)'
    """
    return f"{len(names)} ({', '.join([*names[:SHOWN], *['…'] * (len(names) > SHOWN)])})"
