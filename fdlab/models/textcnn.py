"""A small convolutional sentence encoder with the interface of the ResNet.

Our own choice: the paper's text network is BERT, which is no size for two CPU cores. Two residual
1-D convolutions over learned embeddings, pooled over the words that are there.
"""

from __future__ import annotations

import torch
from torch import nn

from fdlab.models.network import Network
from fdlab.models.output import ModelOutput
from fdlab.models.precision import classify, widen

PADDING = 0  # token id of [PAD]


class TextCNN(Network):
    """Token ids (N, L) int64, 0 for padding → `ModelOutput` with D = 8 · width and maps (N, D, L).

    `feature` is the mean over the sentence's words of the last residual sum before its ReLU, as in
    the ResNet; `logits` read the mean of the same map after its ReLU.
    """

    inputs = "tokens"

    def __init__(self, vocabulary: int, classes: int, width: int = 64, dropout: float = 0.2):
        super().__init__()
        channels = 8 * width
        self.embed = nn.Embedding(vocabulary, channels, padding_idx=PADDING)
        self.dropout = nn.Dropout(dropout)
        self.layer1 = ResidualConv(channels)
        self.layer2 = ResidualConv(channels)
        self.fc = nn.Linear(channels, classes)
        self.feature_width = channels
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, tokens: torch.Tensor) -> ModelOutput:
        words = (tokens != PADDING).unsqueeze(1)  # (N, L) → (N, 1, L)
        x = self.dropout(self.embed(tokens)).transpose(1, 2) * words  # (N, L, D) → (N, D, L)
        maps = {"layer1": self.layer1(x, words)}
        maps["layer2"] = x = self.layer2(maps["layer1"], words)
        count = words.sum(dim=2).clamp_min(1)
        feature = widen(x).sum(dim=2) / count
        logits = classify(widen(torch.relu(x)).sum(dim=2) / count, self.fc)
        return ModelOutput(logits, feature, maps, mask=words[:, 0].to(x.dtype))

    @property
    def norms(self) -> dict[str, nn.BatchNorm1d]:
        return {name: getattr(self, name).bn for name in ("layer1", "layer2")}


class ResidualConv(nn.Module):
    """(N, D, L) → (N, D, L): x + BN(conv3(ReLU(x))), zero where the sentence has ended."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm1d(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return (x + self.bn(self.conv(torch.relu(x)))) * words


def build_textcnn(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> TextCNN:
    """Small convolutional sentence encoder (our own), for token ids (L,) below `vocabulary`."""
    return TextCNN(vocabulary, classes, width)
