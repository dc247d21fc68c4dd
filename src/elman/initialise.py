"""How parameters start."""

from __future__ import annotations

import math

import torch
from torch.nn import Module, init


def uniform(layer: Module, hidden_size: int) -> None:
    """torch's default: every parameter uniform on (-1/sqrt(H), 1/sqrt(H)), in the order of registration.

    With the same seed a layer starts with the very numbers of its torch.nn counterpart.
    """
    bound = 1.0 / math.sqrt(hidden_size)
    for parameter in layer.parameters():
        init.uniform_(parameter, -bound, bound)
