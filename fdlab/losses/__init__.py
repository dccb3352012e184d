"""Losses: pure functions of tensors, each computed in float32 or wider."""
