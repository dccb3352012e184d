"""What a detector found, and how good it is."""

from __future__ import annotations


def decode_detections(logits, boxes, stride, size):
    raise NotImplementedError


def is_detections(predictions) -> bool:
    return predictions.ndim == 3 and predictions.shape[2] == 6


def score_detections(found, truths) -> float:
    raise NotImplementedError


def spread_precision(found, truths):
    raise NotImplementedError
