"""Dropout that draws fewer random numbers on the CPU, where drawing them one by one takes a tenth of a training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

LEVELS = 1 << 16  # a number decides with 16 bits, and four of these come with each number that is drawn


class Dropout(nn.Module):
    """As torch.nn.Dropout: y = x m / (1 - p), each element of m 0 with probability p and else 1; y = x in evaluation.

    p is rounded to a multiple of 1 / 65536. Elements are drawn from torch's generator.

    Source: N. Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, JMLR 15 (2014).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if not x.is_cpu:
            return dropout(x, self.p)
        kept = min(LEVELS - 1, max(1, round((1 - self.p) * LEVELS)))
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        mask = (bits[: x.numel()] < kept - LEVELS // 2).view(x.shape)
        return x * mask.to(x.dtype).mul_(LEVELS / kept)

    def extra_repr(self) -> str:
        return f"p={self.p}"
