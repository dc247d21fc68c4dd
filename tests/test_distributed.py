"""Two processes are one: data parallel and sharded training, and activations that are computed again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import elman
from cases import close, hidden, inputs, layer, weighted
from forks import Child, Forks

LENGTHS = [7, 2, 5, 1, 3, 6]  # the first three are read by one process, and take longer


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lower = elman.LSTM(3, 5, num_layers=2, bidirectional=True, dtype=torch.float64)
        self.upper = elman.PeepholeLSTM(10, 4, dtype=torch.float64)
        self.head = nn.Linear(4, 2, dtype=torch.float64)

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        x, _ = self.lower(x, lengths=lengths)
        return self.head(self.upper(x, lengths=lengths)[0])


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(7, 6, 3), draw(7, 6, 2)


def part(model: nn.Module, rows: slice) -> Tensor:
    x, weight = batch()
    return (model(x[:, rows], LENGTHS[rows]) * weight[:, rows]).sum()


def process(rank: int, folder: str, kind: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model: Any = Tagger()
    if kind == "data parallel":
        model = DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (2,))
        for child in (model.lower, model.upper, model):
            fully_shard(child, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        part(model, slice(3 * rank, 3 * rank + 3)).backward()
        optimizer.step()
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    torch.save([p.detach() for p in whole], Path(folder) / f"{rank}.pt")
    # No destructors: torch destroys a process group with Python's lock held, and may wait for a thread that wants it.
    os._exit(0)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("kind", ["data parallel", "sharded"])
def test_two_processes_train_as_one(kind: str, tmp_path: Path, forks: Forks) -> None:
    code = "import sys, test_distributed\ntest_distributed.process(int(sys.argv[1]), *sys.argv[2:])"
    for done in forks.run(*[Child(code, (rank, str(tmp_path), kind)) for rank in "01"]):
        assert done.returncode == 0, done.stderr[-2000:]
    model = Tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        ((part(model, slice(0, 3)) + part(model, slice(3, 6))) / 2).backward()
        optimizer.step()
    for rank in range(2):
        close(torch.load(tmp_path / f"{rank}.pt"), [p.detach() for p in model.parameters()])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_activations_that_are_computed_again(name: str, reentrant: bool) -> None:
    of = layer(name, 3, 5, num_layers=2, bidirectional=True)
    x, states = inputs(of, 6, 4)
    found = []
    for again in (False, True):
        leaf = x.clone().requires_grad_()

        def run(x: Tensor) -> Tensor:
            return of(x, hidden(states), lengths=[6, 1, 0, 4])[0]

        output: Any = checkpoint(run, leaf, use_reentrant=reentrant) if again else run(leaf)
        of.zero_grad()
        weighted((output,)).backward()
        found.append([output.detach(), leaf.grad, *[p.grad for p in of.parameters()]])
    assert all(map(torch.equal, *found))
