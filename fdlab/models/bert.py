"""BERT (Devlin et al., 2019) with Hugging Face's parameter names, and a tiny one.

The uncased base model of 12 layers, pooled as it was pre-trained: what the [CLS] token has become,
through one dense layer. `feature` is that layer's output before its tanh, which is where the other
networks have their last ReLU; the papers do not say on which side of it they read.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from fdlab.core.errors import UserError
from fdlab.models.network import Network
from fdlab.models.output import ModelOutput
from fdlab.models.precision import classify
from fdlab.models.textcnn import PADDING

POSITIONS, TYPES = 512, 2
DROPOUT, EPS, DEVIATION = 0.1, 1e-12, 0.02
MAPS = 4  # of the layers' outputs, how many are given as maps


class Embeddings(nn.Module):
    """(N, L) token ids → (N, L, D); every token of the first type."""

    def __init__(self, vocabulary: int, hidden: int):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, hidden, padding_idx=PADDING)
        self.position_embeddings = nn.Embedding(POSITIONS, hidden)
        self.token_type_embeddings = nn.Embedding(TYPES, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, EPS)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        x = self.word_embeddings(tokens) + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x + self.position_embeddings.weight[:length]))


class SelfAttention(nn.Module):
    """(N, L, D), there (N, 1, 1, L) bool → (N, L, D); no token looks at one that is not there."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (N, heads, L, D / heads)
            for part in (self.query, self.key, self.value)
        )
        dropout = DROPOUT if self.training else 0.0
        x = functional.scaled_dot_product_attention(query, key, value, there, dropout)
        return x.transpose(1, 2).flatten(2)  # (N, L, heads, D / heads) → (N, L, D)


class AddNorm(nn.Module):
    """A dense layer to D, added to what its branch took in, and layer norm."""

    def __init__(self, size: int, hidden: int):
        super().__init__()
        self.dense = nn.Linear(size, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, EPS)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: torch.Tensor, branched: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + branched)


class Attention(nn.Module):
    """(N, L, D), there (N, 1, 1, L) bool → (N, L, D): self-attention, added to what it reads."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.self = SelfAttention(hidden, heads)
        self.output = AddNorm(hidden, hidden)

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        return self.output(self.self(x, there), x)


class Dense(nn.Module):
    """One linear layer, under the name that the reference has for it."""

    def __init__(self, size: int, out: int):
        super().__init__()
        self.dense = nn.Linear(size, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x)


class Layer(nn.Module):
    """(N, L, D) → (N, L, D): attention, then two dense layers of 4 D and D, each added."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.attention = Attention(hidden, heads)
        self.intermediate = Dense(hidden, 4 * hidden)
        self.output = AddNorm(4 * hidden, hidden)

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        x = self.attention(x, there)
        return self.output(functional.gelu(self.intermediate(x)), x)


class Encoder(nn.Module):
    """(N, L, D) → what every layer gives."""

    def __init__(self, hidden: int, layers: int, heads: int):
        super().__init__()
        self.layer = nn.ModuleList(Layer(hidden, heads) for _ in range(layers))

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for layer in self.layer:
            x = layer(x, there)
            found.append(x)
        return found


class Bert(Network):
    """Token ids (N, L) int64, 0 for padding → `ModelOutput` with D = hidden and maps (N, D, L).

    The first token is to be [CLS]; it counts as there whatever it is, so that an empty row is
    finite. own_start: the vocabulary has no [CLS], and one is put in front: maps and mask are then
    L + 1 long, and the word embeddings have one row more, the last. heads: `hidden` / 64 of them,
    or the next smaller number that divides `hidden`. Maps: up to four layers' outputs at equal
    steps, the last among them, by number from 1 ("layer3" to "layer12" of 12), 0 where a row is
    padded. They are outputs of a layer norm, before no ReLU, and `feature` is not their mean.
    `logits`: tanh of `feature`, dropout, linear classifier. Initialisation is the reference's:
    N(0, 0.02²), bias 0, the row of padding 0.
    """

    inputs = "tokens"
    head = "classifier"
    optional = ("classifier.", "pooler.")
    pools_maps = False

    def __init__(
        self, vocabulary: int, classes: int, hidden: int, layers: int, own_start: bool = False
    ):
        super().__init__()
        heads = next(n for n in range(max(1, hidden // 64), 0, -1) if hidden % n == 0)
        self.start = vocabulary if own_start else None  # its id
        self.embeddings = Embeddings(vocabulary + own_start, hidden)
        self.encoder = Encoder(hidden, layers, heads)
        self.pooler = Dense(hidden, hidden)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(hidden, classes)
        self.feature_width = hidden
        count = min(MAPS, layers)
        self.shown = [math.ceil((i + 1) * layers / count) for i in range(count)]
        self.apply(_initialise)

    def forward(self, tokens: torch.Tensor) -> ModelOutput:
        if self.start is not None:
            tokens = functional.pad(tokens, (1, 0), value=self.start)  # (N, L) → (N, L + 1)
        there = tokens != PADDING
        there[:, 0] = True
        states = self.encoder(self.embeddings(tokens), there[:, None, None])
        kept = there.unsqueeze(1)  # (N, 1, L)
        maps = {f"layer{i}": states[i - 1].transpose(1, 2) * kept for i in self.shown}
        feature = classify(states[-1][:, 0], self.pooler)  # (N, L, D) → (N, D)
        logits = classify(self.dropout(torch.tanh(feature)), self.classifier)
        return ModelOutput(logits, feature, maps, mask=there.to(feature.dtype))

    @property
    def fc(self) -> nn.Linear:
        """The linear classifier, under the name that methods ask for."""
        return self.classifier

    def translate(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Without the prefix `bert.` that models with a head have, the heads of pre-training
        (`cls.`) and the positions' numbers; `gamma` and `beta` of old files renamed."""
        found = {}
        for name, value in state.items():
            name = name.removeprefix("bert.")
            for old, new in (("gamma", "weight"), ("beta", "bias")):
                name = name.replace(f"LayerNorm.{old}", f"LayerNorm.{new}")
            if not name.startswith("cls.") and name != "embeddings.position_ids":
                found[name] = value
        return found


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0, DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()


def build_bert(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> Bert:
    """BERT (Devlin et al., 2019), for token ids (L,) below `vocabulary`, the first one [CLS].

    Other widths than 64, the base model, scale it: 12 · width channels, 12 · width / 64 layers.
    """
    _require_length(shape[-1])
    return Bert(vocabulary, classes, 12 * width, max(1, round(12 * width / 64)))


def build_bert_tiny(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> Bert:
    """BERT of two layers and 8 · width channels, for token ids (L,) of a vocabulary without [CLS].

    At width 16 the BERT-tiny of Turc et al. (2019).
    """
    _require_length(shape[-1] + 1)
    return Bert(vocabulary, classes, 8 * width, 2, own_start=True)


def _require_length(length: int) -> None:
    if length > POSITIONS:
        raise UserError(f"BERT has {POSITIONS} positions: expected no longer rows, got {length}")
