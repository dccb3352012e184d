"""Boxes under a random view."""

from __future__ import annotations


def move_boxes(truths, stored, size, augmentation, view):
    raise NotImplementedError
