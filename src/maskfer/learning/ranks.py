"""Processes that train one network together, one for each accelerator, on shares of the same batches.

With them a step is what it would be in one process: the gradient is that of the whole batch, and so are the
mean and variance of every batch normalisation. Only what is drawn for the faces of a batch, their
augmentation and the dropout, comes from a generator of each process's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

LossOf = Callable[[Int64[Tensor, " b *rest"], Generator], Float[Tensor, ""]]


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among those that train together; by default it is alone."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that judges, writes and reports; the others only compute."""
        return self.rank == 0

    def share(self, batch: Int64[Tensor, " b *rest"]) -> Int64[Tensor, " part *rest"]:
        """Return this process's rows of a batch that all drew alike; sizes differ by one at most."""
        return batch[self.rank :: self.count]

    def loss_of(self, loss: LossOf, model: nn.Module) -> LossOf:
        """Return `loss` such that a backward pass leaves the mean gradient of all processes in `model`.

        The batch normalisations of `model` see the batches of all processes from here on.
        """
        if self.count == 1:
            return loss
        _share_norms(model)
        # DistributedDataParallel wants a single forward per step, but a loss calls parts of its network, a
        # contest even several times: so it is the loss that is wrapped, with the network inside. Its buckets
        # travel in a group of their own, because on the way back they interleave with the normalisations'.
        return DistributedDataParallel(
            _Loss(loss, model), forward_sync_buffers=False, process_group=distributed.new_group()
        )

    def sum(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the sum over the processes; every one has to ask for it."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values


ALONE = Ranks()


class _Loss(nn.Module):
    """A task's loss as the forward pass of the network that it trains."""

    def __init__(self, loss: LossOf, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Int64[Tensor, " b *rest"], generator: Generator) -> Float[Tensor, ""]:
        return self._loss(batch, generator)


class SharedNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes; torch's own works on accelerators alone."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SharedNorm:
        """Return one with the weights and the running figures of `norm`, not with copies of them."""
        shared = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        shared.weight, shared.bias = norm.weight, norm.bias
        shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
        shared.num_batches_tracked = norm.num_batches_tracked
        return shared.train(norm.training)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise by all processes' mean and variance in training, by the running ones else."""
        if not self.training:
            return super().forward(features)
        values, axes = features.float(), (0, 2, 3)
        here = values.new_tensor([values[:, 0].numel()])
        sums = _summed(torch.cat([values.sum(axes), here]))
        total, count = torch.split(sums, [self.num_features, 1])
        mean = total / count
        centred = values - mean.view(1, -1, 1, 1)
        variance = _summed(centred.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normed = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        answer: Tensor = normed.to(features.dtype)
        return answer

    @torch.no_grad()
    def _remember(self, mean: Float[Tensor, " c"], variance: Float[Tensor, " c"]) -> None:
        assert self.running_mean is not None, "ours all keep running figures"
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


class _Sum(torch.autograd.Function):
    """Sum over the processes, of values and, on the way back, of gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        del ctx
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def _summed(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def _share_norms(model: nn.Module) -> None:
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SharedNorm.of(child))
