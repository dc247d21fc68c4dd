"""Measures what torch.compile gains or costs: a model runs compiled and eager, in alternating rounds.

    python bench/compiled.py [minutes]

There are two models. One is a tagger, with three bidirectional layers between an embedding and a linear head; it runs
with and without lengths. The other is one small layer alone, where the overhead of a compiled call shows.
Training is forward, loss and backward; inference is forward. The table has medians, their ratio, and the time that
compiling took. It is only printed. Everything runs on one thread.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import elman


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 64)
        self.read = elman.LSTM(64, 64, num_layers=3, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 17))

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.head(self.read(self.embed(tokens), lengths=lengths)[0])


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = elman.GRU(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x)[0]


def step(model: Callable[..., Tensor], parameters: list[nn.Parameter], x: tuple[Tensor, ...], training: bool) -> Any:
    if training:
        return torch.autograd.grad(model(*x).square().mean(), parameters)
    with torch.no_grad():
        return model(*x)


def compare(name: str, model: nn.Module, x: tuple[Tensor, ...], seconds: float) -> None:
    parameters, compiled = list(model.parameters()), torch.compile(model, fullgraph=True, dynamic=True)
    for training in (True, False):
        calls = {"eager": model, "compiled": compiled}
        step(model, parameters, x, training)
        begin = time.perf_counter()
        step(compiled, parameters, x, training)
        compiling = time.perf_counter() - begin
        found: dict[str, list[float]] = {of: [] for of in calls}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(found["eager"]) < 5:
            for of, call in calls.items():
                begin = time.perf_counter()
                for _ in range(5):
                    step(call, parameters, x, training)
                found[of].append((time.perf_counter() - begin) / 5 * 1e3)
        eager, other = (statistics.median(times) for times in found.values())
        what = "training" if training else "inference"
        print(f"{name:24}{what:10}{eager:10.3f}{other:10.3f}{eager / other:8.2f}{compiling:12.1f}")


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    seconds = 60 * float(sys.argv[1] if len(sys.argv) > 1 else 1.0) / 8
    print(f"{'':34}eager ms  compiled   ratio   compiling (s)")
    tokens, lengths = torch.randint(1000, (50, 16)), torch.randint(1, 51, (16,))
    compare("three layers, (50, 16)", Tagger(), (tokens,), seconds)
    compare("the same with lengths", Tagger(), (tokens, lengths), seconds)
    compare("one GRU(16), (10, 1)", Alone(), (torch.randn(10, 1, 16),), seconds)
    compare("one GRU(16), (2, 3)", Alone(), (torch.randn(2, 3, 16),), seconds)


if __name__ == "__main__":
    main()
