"""Losses: pure functions of tensors, distances are computed in float32 under autocast too."""
