"""Layers that treat the batches of several processes as the one batch that they are together.

With them, several processes train as one would, but for rounding. torch's ``SyncBatchNorm`` works on GPUs
only; `join` takes it there, and ours on CPUs.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


class JointBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes, whose batches have one size."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, rows, columns)`` to the same."""
        if not self.training:
            return super().forward(x)
        values = x.to(self.weight.dtype)
        axes = (0, 2, 3)
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean = all_reduce(values.sum(axes)) / count
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class JointDropout(nn.Dropout):
    """Dropout that draws for the batches of all processes, from random states that are the same in each."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, …)`` to the same."""
        if not self.training or self.p == 0:
            return x
        processes = distributed.get_world_size()
        kept = x.new_empty(len(x) * processes, *x.shape[1:]).bernoulli_(1 - self.p)
        return x * kept[distributed.get_rank() :: processes] / (1 - self.p)


def join(module: nn.Module) -> nn.Module:
    """Put joint layers in the place of dropout and batch normalisation; weights and their names stay.

    Args:
        module: on the CPU; where the processes use GPUs, take ``SyncBatchNorm`` instead (Lightning's
            ``sync_batchnorm=True``).

    Returns:
        The module, or what stands in its place.
    """
    if type(module) is nn.BatchNorm2d:
        joint = JointBatchNorm2d(module.num_features, module.eps, module.momentum)
        joint.weight, joint.bias = module.weight, module.bias
        joint.running_mean, joint.running_var = module.running_mean, module.running_var
        joint.num_batches_tracked = module.num_batches_tracked
        return joint.train(module.training)
    if type(module) is nn.Dropout:
        return JointDropout(module.p).train(module.training)
    for name, child in module.named_children():
        setattr(module, name, join(child))
    return module
