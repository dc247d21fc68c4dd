"""Measures how fast this machine multiplies matrices: the limit for a layer at (T, B, I, H) = (100, 64, 512, 512)."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

T, B, I, H = 100, 64, 512, 512  # noqa: E741
GATES = (1, 4)
BURST = 0.02  # seconds for which a product is repeated


def products() -> dict[str, tuple[int, int, int]]:
    """Returns rows, inner size and columns of every large product in a layer of these sizes."""
    found: dict[str, tuple[int, int, int]] = {}
    for gates in GATES:
        found[f"input projection, {gates} gates"] = (T * B, I, gates * H)
        found[f"recurrent step, {gates} gates"] = (B, H, gates * H)
        found[f"gradient of x, {gates} gates"] = (T * B, gates * H, I)
        found[f"gradient of the weights, {gates} gates"] = (gates * H, T * B, I)
    return found


def ways(a: Tensor, b: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Returns torch.mm, and oneDNN where torch has it. torch.mm's MKL may be slow on other makers' processors."""
    found: dict[str, Callable[[], Tensor]] = {"torch.mm": lambda: torch.mm(a, b)}
    if torch.backends.mkldnn.is_available():
        weight = b.t().contiguous()
        found["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(a, weight, None, "none", [], "")
    return found


def rates() -> dict[str, float]:
    """Returns the GFLOP/s of every product computed in every way, each over a burst of its own."""
    found: dict[str, float] = {}
    with torch.inference_mode():
        for product, (rows, inner, columns) in products().items():
            a, b = torch.randn(rows, inner), torch.randn(inner, columns)
            for way, multiply in ways(a, b).items():
                multiply()
                begin, count = time.perf_counter(), 0
                while time.perf_counter() - begin < BURST:
                    multiply()
                    count += 1
                seconds = (time.perf_counter() - begin) / count
                found[f"{product}, {way}"] = 2e-9 * rows * inner * columns / seconds
    return found
