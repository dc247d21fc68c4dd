"""torch's table of functions that write operators as ONNX, made once. Each export makes it anew, which takes 0.4 s."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from torch.onnx._internal.exporter._registration import ONNXRegistry


def remember(*opsets: int) -> None:
    """Exports of this process, and of those that are forked from it, share a table for each opset. opsets: for now."""
    table = cache(ONNXRegistry.from_torchlib)

    def own(_: Any, **of: Any) -> ONNXRegistry:
        registry = copy.copy(table(**of))
        registry.functions = {name: list(found) for name, found in registry.functions.items()}  # an export may add some
        return registry

    ONNXRegistry.from_torchlib = classmethod(own)  # pyright: ignore[reportAttributeAccessIssue]
    for opset in opsets:
        ONNXRegistry.from_torchlib(opset_version=opset)
