"""What torch's exports have in common, made once: each of them would make it anew.

It is the table of functions that write operators as ONNX, which takes 0.4 s, and operators made of others, for which
an export looks twice in each of thirty libraries.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch._export import utils
from torch.onnx._internal.exporter._registration import ONNXRegistry


def remember(*opsets: int) -> None:
    """Exports of this process, and of those that are forked from it, share both. opsets: those of tables made now."""
    table = cache(ONNXRegistry.from_torchlib)

    def own(_: Any, **of: Any) -> ONNXRegistry:
        registry = copy.copy(table(**of))
        registry.functions = {name: list(found) for name, found in registry.functions.items()}  # an export may add some
        return registry

    ONNXRegistry.from_torchlib = classmethod(own)  # pyright: ignore[reportAttributeAccessIssue]
    for opset in opsets:
        ONNXRegistry.from_torchlib(opset_version=opset)

    look = utils._materialize_cpp_cia_ops
    known: tuple[int, int] | None = None

    def look_again() -> None:
        nonlocal known
        now = len(torch.library._defs), len(torch.library._impls)
        if now != known:  # only Python registers more of them
            known = now
            look()

    utils._materialize_cpp_cia_ops = look_again
