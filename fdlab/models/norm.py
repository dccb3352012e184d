"""Batch norm for batches of any size, and for batches that several processes share."""

from __future__ import annotations

from functools import partial

import torch
from torch import distributed, nn
from torch.autograd.function import once_differentiable

from fdlab.core import processes
from fdlab.models.precision import widen


class Norm(nn.BatchNorm2d):
    """Batch norm that takes its running statistics where a batch has one value per channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.numel() == x.shape[1]:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


def join_norms(model: nn.Module) -> None:
    """Let every batch norm of a network, where it trains, take the statistics of the whole batch of
    which each process has a part, an empty one perhaps. Modules and names stay.

    torch's own SyncBatchNorm does not run on the CPU.
    """
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.forward = partial(_normalise, part)


def _normalise(norm: nn.modules.batchnorm._BatchNorm, x: torch.Tensor) -> torch.Tensor:
    if not norm.training or processes.count() == 1:
        return type(norm).forward(norm, x)
    y, mean, variance, size = _JointNorm.apply(x, norm.weight, norm.bias, norm.eps)
    if norm.track_running_stats:
        _keep(norm, mean, variance, size)
    return y


@torch.no_grad()
def _keep(
    norm: nn.modules.batchnorm._BatchNorm,
    mean: torch.Tensor,
    variance: torch.Tensor,
    size: torch.Tensor,
) -> None:
    """Running statistics, as torch keeps them: of the variance the unbiased one."""
    norm.num_batches_tracked += 1
    share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    norm.running_mean += share * (mean - norm.running_mean)
    norm.running_var += share * (variance * (size / (size - 1)) - norm.running_var)


class _JointNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) · weight + bias, moments over all processes.

    x: (N, C, …). Also gives mean and biased variance (C,) and the number of values per channel.
    Sums are taken in float32 at least, the variance from centred values in a second pass.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        values, axes = widen(x), [0, *range(2, x.ndim)]
        size = values.new_tensor([x.numel() // x.shape[1]])
        sums = torch.cat([values.sum(axes), size])
        distributed.all_reduce(sums)
        size = sums[-1].clone()
        mean = sums[:-1] / size
        centred = values - _across(mean, x)
        variance = centred.square().sum(axes)
        distributed.all_reduce(variance)
        variance /= size
        scale = (variance + eps).rsqrt()
        y = centred * _across(scale if weight is None else scale * weight, x)
        if bias is not None:
            y = y + _across(bias, x)
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight, mean, scale, size)
        ctx.mark_non_differentiable(mean, variance, size)
        return y.to(x.dtype), mean, variance, size

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, *_):
        x, weight, mean, scale, size = ctx.saved_tensors
        axes = [0, *range(2, x.ndim)]
        gradient = widen(gradient)
        unit = (widen(x) - _across(mean, x)) * _across(scale, x)
        sums = torch.stack([gradient.sum(axes), (gradient * unit).sum(axes)])
        own = sums.clone()  # the parameters' gradients are added up with all others
        distributed.all_reduce(sums)
        first, second = sums / size
        inner = gradient - _across(first, x) - unit * _across(second, x)
        inner = inner * _across(scale if weight is None else scale * weight, x)
        shift, stretch = own if weight is not None else (own[0], None)
        return inner.to(x.dtype), stretch, shift if ctx.has_bias else None, None


def _across(channels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(C,) → (1, C, 1, …) for (N, C, …)."""
    return channels.view(1, -1, *[1] * (x.ndim - 2))
