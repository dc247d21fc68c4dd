"""The likeliest tags of a conditional random field as two of ONNX's Scans: one to the end, and one back from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from elman.onnx.scan import Nodes, constant, op, write


# Without types: onnxscript would take them for those of ONNX.
def viterbi(scores, transitions, first, last, lengths):
    """Writes the nodes of the operator `elman::viterbi`, by the same equations. Returns the tags (T, B)."""
    kind, (_, batch, tags) = scores.dtype, scores.shape
    rows = op.Shape(scores, start=1, end=2)
    behind = op.Add(op.Squeeze(op.Shape(scores, start=0, end=1), constant([0])), constant(1))
    numbers = op.Unsqueeze(op.Range(constant(1), behind, constant(1)), constant([1, 2, 3]))
    ends = op.Equal(numbers, op.Reshape(lengths, constant([1, -1, 1, 1])))  # (T, B, 1, 1)
    alike = op.Unsqueeze(last, constant([1]))  # (K, 1)

    reached, score = _value("reached", kind, batch, tags), _value("score", kind, batch, tags)
    end = _value("end", ir.DataType.BOOL, batch, 1, 1)
    there = Nodes(ir.Graph([reached, score, end], [], nodes=[], name="viterbi_there"), "viterbi_there")
    before = there("Unsqueeze", there("Add", reached, score), there.constant([2]))
    ways = there("Add", before, there("Where", end, alike, transitions))  # (B, from, to)
    best = there("ArgMax", ways, axis=1, keepdims=0)
    after = there("ReduceMax", ways, there.constant([1]), keepdims=0)
    most = there("ReduceMax", after, there.constant([1]), keepdims=1)
    least = there("CastLike", there.constant(np.float32(np.finfo(np.float32).min)), most)
    after = there("Sub", after, there("Max", most, least))
    begin = op.Expand(first, op.Concat(rows, constant([1]), axis=0))
    came = _scan(there.graph, (after, kind), (best, ir.DataType.INT64), (batch, tags), begin, [scores, ends])

    tag, own = _value("tag", ir.DataType.INT64, batch, 1), _value("own", ir.DataType.INT64, batch, tags)
    back = Nodes(ir.Graph([tag, own], [], nodes=[], name="viterbi_back"), "viterbi_back")
    from_tag = back("GatherElements", own, tag, axis=1)
    said = back("Identity", from_tag)  # no value is an output twice
    begin = op.Expand(constant(0), op.Concat(rows, constant([1]), axis=0))
    whole = ir.DataType.INT64
    found = _scan(back.graph, (from_tag, whole), (said, whole), (batch, 1), begin, [came], reverse=True)
    return op.Squeeze(found, constant([2]))


def _value(name: str, kind: Any, *shape: Any) -> ir.Value:
    return ir.Value(name=f"viterbi_{name}", shape=ir.Shape(shape), type=ir.TensorType(kind))


def _scan(
    body: ir.Graph,
    state: tuple[ir.Value, Any],
    output: tuple[ir.Value, Any],
    shape: tuple[Any, ...],
    begin: Any,
    inputs: Sequence[Any],
    reverse: bool = False,
) -> Any:
    """Writes a Scan with one state and one output, both with their types and of one shape. Returns all its outputs, (T, ...)."""
    for value, kind in (state, output):
        value.type, value.shape = ir.TensorType(kind), ir.Shape(shape)
    body.outputs.extend([state[0], output[0]])
    directions = {"scan_input_directions": [int(reverse)] * len(inputs), "scan_output_directions": [int(reverse)]}
    attributes: Any = {"body": body, "num_scan_inputs": len(inputs), **directions}
    node = ir.node("Scan", [begin, *inputs], attributes=attributes, num_outputs=2)
    write(node)
    for value, (_, kind) in zip(node.outputs, (state, output), strict=True):
        value.type = ir.TensorType(kind)
    return node.outputs[1]
