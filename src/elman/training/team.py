"""Several processes that train one model together, as `torchrun` starts them: each learns from a share of every batch.

All have the same parameters. After each step they add up their gradients, and so stay equal. The first process alone
judges the model and writes files. A run on N processes therefore looks like a run on one, and can go on with another N.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from elman.errors import InputError


class Team(NamedTuple):
    """This process, number `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Returns for each number its sum over all processes."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=_device())
        dist.all_reduce(sums)
        return sums.tolist()

    def any(self, value: bool) -> bool:
        return self.total(float(value))[0] > 0

    def told(self, value: Any) -> Any:
        """Returns what the first process gives here. The others give anything."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes."""
        if self.world == 1 or not tensors:
            return
        together = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(together)
        for t, sums in zip(tensors, together.split([t.numel() for t in tensors]), strict=True):
            t.copy_(sums.view(t.shape))

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """Returns the tensors, all of one shape, that the processes give."""
        if self.world == 1:
            return [tensor]
        own = tensor.to(_device()).contiguous()  # NCCL sends nothing that is on the CPU
        found = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(found, own)
        return [each.to(tensor.device) for each in found]


ALONE = Team()


def started_together() -> bool:
    """Whether `torchrun`, or another program that sets the same variables, has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def joined(device: str) -> Iterator[tuple[Team, str]]:
    """Joins the processes that were started together. Yields the team and this process's device.

    device: "cuda" for the GPU of this process's number on its machine, or one such as "cuda:1", on which the model is.
    Processes on GPUs talk through NCCL, for which each needs a GPU of its own; others talk through Gloo.
    """
    if not started_together():
        yield ALONE, device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # the one through which NCCL talks
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the processes cannot find each other: {str(error).splitlines()[0]}; start them with torchrun"
        ) from error
    try:
        yield Team(dist.get_rank(), dist.get_world_size()), device
    except (dist.DistBackendError, dist.DistNetworkError, RuntimeError) as error:
        if "Duplicate GPU" in str(error):
            raise InputError(
                f"{device} has the model of several processes; put each on a GPU of its own, that of the variable LOCAL_RANK"
            ) from error
        if not _is_lost(error):
            raise
        raise InputError(
            f"another process was lost ({str(error).splitlines()[0][:160]}); the last checkpoint is kept: resume with --resume"
        ) from error
    finally:
        dist.destroy_process_group()


def _is_lost(error: Exception) -> bool:
    words = ("closed by peer", "timed out", "reset by peer", "broken pipe", "gloo", "nccl", "socket")
    return any(word in str(error).lower() for word in words)


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
