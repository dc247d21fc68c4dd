"""Any cell as ONNX's Scan: the body is the cell's graph, and the loop is the recurrence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import evaluator, opset18

from elman import cells, graph
from elman.cell import Cell
from elman.graph import Node
from elman.onnx.written import COMPARISONS, KEY, OF_OPERATION, OVER_ROW, note

op: Any = opset18  # in a translation, its functions take and give the symbols of a graph, which its types do not say

EXACT = "elman.exact"  # marks a node whose product is not to be made in integers
NUMPY = {ir.DataType.FLOAT: np.float32, ir.DataType.DOUBLE: np.float64, ir.DataType.FLOAT16: np.float16}


class Unwritable(TypeError):
    """A layer has no form in ONNX. `elman.onnx.export` finds it among the errors of PyTorch's exporter."""


def joined(parts: Sequence[Any], axis: int) -> Any:
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)


def constant(value: Any) -> Any:
    return op.Constant(value=ir.tensor(np.asarray(value, np.int64)))


def scan(call: Any) -> Sequence[Any]:
    """Writes one Scan for each direction. Returns the output (T, B, D*Y), and the final states (D, B, width)."""
    return _each(call, _direction)


def step(call: Any) -> Sequence[Any]:
    """Writes the one step of a call of one step, which needs no Scan. Returns what `scan` returns."""
    return _each(call, _alone)


def _each(call: Any, write: Callable[[Any, int], list[Any]]) -> Sequence[Any]:
    if call.x.dtype not in NUMPY:
        raise Unwritable(
            f"cell {call.cell.name!r} is exported in {call.x.dtype}, which a Scan is not written in; convert the model to float32"
        )
    try:
        graph.trace(call.cell)
    except graph.NotTraceable as error:
        raise Unwritable(f"cell {call.cell.name!r} cannot be exported: {error}") from error
    each = [write(call, d) for d in range(len(call.directions))]
    outputs, *finals = zip(*each, strict=True)
    stacked = [joined([op.Unsqueeze(state, constant([0])) for state in states], 0) for states in finals]
    return [joined(list(outputs), 2), *stacked]


def _share(call: Any, weights: Any) -> Any:
    """Writes the share of all gates in a step, (T, B, G*H); of a cell without input gates x, which says how many steps there are.

    It is a Gemm on all rows, since ONNX Runtime's process ends where a MatMul in float16 has its x from a Transpose.
    """
    if not call.cell.anatomy.input_gates:
        return call.x
    height, width = weights.ih.shape
    rows = op.Reshape(call.x, constant([-1, width]))
    share = op.Gemm(rows, weights.ih, *([] if weights.b_ih is None else [weights.b_ih]), transB=1)
    return op.Reshape(share, op.Concat(op.Shape(call.x, start=0, end=2), constant([height]), axis=0))


def _alone(call: Any, d: int) -> list[Any]:
    """Writes the one step of one direction. Returns its output (1, B, Y) and its final states, each (B, width)."""
    cell, weights = call.cell, call.directions[d].weights
    share = op.Squeeze(_share(call, weights), constant([0]))
    begin = [op.Gather(state, constant(d), axis=0) for state in call.state]
    body = _Body(cell, weights, call, (False, False), ())
    streams = [op.Squeeze(stream, constant([0])) for stream in call.streams]
    after = list(body.step(share, dict(zip(cell.states, begin, strict=True)), streams).values())
    for node in body.nodes:
        write(node)
    for value, width in zip(after, body.widths, strict=True):
        value.type, value.shape = ir.TensorType(call.x.dtype), ir.Shape([body.batch, width])
    return [op.Unsqueeze(after[0], constant([0])), *after]


def _direction(call: Any, d: int) -> list[Any]:
    """Writes the Scan of one direction. Returns its output (T, B, Y) and its final states, each (B, width)."""
    cell, (weights, reverse) = call.cell, call.directions[d]
    # Of a step: the share of all gates (B, G*H), then streams (B, H), then masks (B, 1).
    inputs = [_share(call, weights), *call.streams]
    present, goes_on = _masks(call, reverse)
    inputs += [mask for mask in (present, goes_on) if mask is not None]
    begin = [op.Gather(state, constant(d), axis=0) for state in call.state]
    afresh = [op.Gather(state, constant(d), axis=0) for state in call.afresh]
    body = _Body(cell, weights, call, [value is not None for value in (present, goes_on)], afresh).graph()
    count = len(inputs)
    node = ir.node(
        "Scan",
        [*begin, *inputs],
        attributes={
            "body": body,
            "num_scan_inputs": count,
            "scan_input_directions": [int(reverse)] * count,
            "scan_output_directions": [int(reverse)],
        },
        num_outputs=len(begin) + 1,
    )
    node.metadata_props[KEY] = note(cell)  # by which it is read again
    write(node)
    *finals, output = node.outputs
    for value, like in zip(node.outputs, [*call.state, call.x], strict=True):
        value.type = ir.TensorType(like.dtype)
    if present is not None:  # at once for all steps, which costs less than in each
        output = op.Where(present, output, op.CastLike(constant(0), output))
    return [output, *finals]


def _masks(call: Any, reverse: bool) -> tuple[Any, Any]:
    """Writes what `elman.masks.masks` computes: the steps that each row has, and those that go on, each (T, B, 1)."""
    if call.lengths is None and call.reset is None:
        return None, None
    present = goes_on = None if call.lengths is None else present_steps(call)
    if call.reset is not None:
        cuts = op.Unsqueeze(call.reset, constant([2]))
        if present is not None:
            cuts = op.And(cuts, present)  # before a step that the row has
        if reverse:  # before a step that the forward direction does after it
            later = op.Slice(cuts, constant([1]), constant([np.iinfo(np.int64).max]), constant([0]))
            first = op.Slice(cuts, constant([0]), constant([1]), constant([0]))
            cuts = op.Concat(later, op.And(first, op.Not(first)), axis=0)
        goes_on = op.Not(cuts) if present is None else op.And(present, op.Not(cuts))
    return present, goes_on if call.reset is not None else None


def present_steps(call: Any) -> Any:
    """Writes which steps each row has, (T, B, 1), by its length."""
    steps = op.Squeeze(op.Shape(call.x, start=0, end=1), constant([0]))
    numbers = op.Unsqueeze(op.Range(constant(0), steps, constant(1)), constant([1, 2]))  # (T, 1, 1)
    return op.Less(numbers, op.Unsqueeze(op.Cast(call.lengths, to=ir.DataType.INT64.value), constant([1])))


class _Body:
    """The graph of one step, made node by node. It reads the weights of the graph around it."""

    def __init__(self, cell: Cell, weights: Any, call: Any, masked: Sequence[bool], afresh: Sequence[Any]):
        self.cell, self.weights, self.afresh = cell, weights, afresh
        self.traced = graph.trace(cell).needed()
        self.dtype, self.batch = call.x.dtype, call.x.shape[1]
        self.hidden = int(weights.hr.shape[1] if cell.projected else call.state[-1].shape[2])
        self.widths = [int(state.shape[2]) for state in call.state]
        self.masked, self.nodes, self.count = masked, list[ir.Node](), 0
        # No two bodies of a model have the same name: a call with the weights of another one finds that this one uses them.
        own = next((weight for weight in weights if weight is not None), call.x)
        self.name = f"{cell.name}_{own.name}_{len(own.uses())}"
        self.share_width = len(cell.anatomy.input_gates) * self.hidden or int(call.x.shape[2])
        self.products: dict[int, dict[str, Any]] = {}  # by operand: the share of each gate that multiplies it
        # Matrices and biases are cut outside of the loop, by the operand that they multiply.
        self.matrices = self._matrices()
        self.vectors = {name: op.Gather(weights.ch, constant(k), axis=0) for k, name in enumerate(cell.vectors)}

    def _matrices(self) -> dict[int, tuple[list[str], Any, Any]]:
        """For each operand's node: the gates that multiply it, the rows of their matrices, and their biases."""
        found: dict[int, list[str]] = {}
        for node in self.traced.nodes:
            if node.op == "R" and node.name not in found.setdefault(node.arguments[0].index, []):
                found[node.arguments[0].index].append(node.name)
        every, cut = self.cell.anatomy.recurrent_gates, {}
        for operand, gates in found.items():
            order = np.concatenate([np.arange(self.hidden) + every.index(gate) * self.hidden for gate in gates])
            matrix, bias = self.weights.hh, self.weights.b_hh
            if tuple(gates) != tuple(every):
                matrix = op.Gather(matrix, constant(order), axis=0)
                bias = None if bias is None else op.Gather(bias, constant(order), axis=0)
            cut[operand] = gates, matrix, bias
        return cut

    def graph(self) -> ir.Graph:
        cell, zero = self.cell, np.zeros((), NUMPY[self.dtype])
        states = [self._value(f"{name}_before", width) for name, width in zip(cell.states, self.widths, strict=True)]
        inputs = [*states, self._value("share", self.share_width)]
        streams = [self._value(f"u_{name}", self.hidden) for name in cell.streams]
        inputs += streams
        masks = [
            self._value(name, 1, ir.DataType.BOOL) if there else None
            for name, there in zip(("present", "goes_on"), self.masked, strict=True)
        ]
        inputs += [mask for mask in masks if mask is not None]
        present, goes_on = masks
        before = dict(zip(cell.states, states, strict=True))
        if goes_on is not None:
            others = self.afresh or [self._number(zero)] * len(states)
            before = {n: self._node("Where", goes_on, v, o) for (n, v), o in zip(before.items(), others, strict=True)}
        after = self.step(inputs[len(states)], before, streams)
        output = after[cell.states[0]]
        if present is not None:
            after = {
                name: self._node("Where", present, value, old)
                for (name, value), old in zip(after.items(), states, strict=True)
            }
        outputs = [self._node("Identity", value) for value in (*after.values(), output)]  # no value is an output twice
        for value, width in zip(outputs, (*self.widths, self.widths[0]), strict=True):
            value.type, value.shape = ir.TensorType(self.dtype), ir.Shape([self.batch, width])
        return ir.Graph(inputs, outputs, nodes=self.nodes, name=f"{cell.name}_step")

    def step(self, share: Any, before: dict[str, Any], streams: Sequence[Any]) -> dict[str, Any]:
        gates = self.cell.anatomy.input_gates
        self.streams = dict(zip(self.cell.streams, streams, strict=True))
        shares = dict(zip(gates, self._split(share, len(gates)), strict=True)) if gates else {}
        values: dict[int, Any] = {}
        for node in self.traced.nodes:
            values[node.index] = self._compute(node, values, shares, before)
        return {name: values[node.index] for name, node in self.traced.outputs.items()}

    def _compute(self, node: Node, values: dict[int, Any], shares: dict[str, Any], before: dict[str, Any]) -> Any:
        arguments = [values[a.index] for a in node.arguments]
        if node.op == "x":
            return shares[node.name]
        if node.op == "s":
            return before[node.name]
        if node.op == "p":
            return self.vectors[node.name]
        if node.op == "u":
            return self.streams[node.name]
        if node.op == "number":
            return self._number(np.array(node.value, NUMPY[self.dtype]))
        if node.op == "R":
            return self._product(node.arguments[0].index, arguments[0])[node.name]
        if node.op == "P":
            return self._node("Gemm", arguments[0], self.weights.hr, transB=1)
        if node.op in COMPARISONS:
            a, b, x, y = arguments
            return self._node("Where", self._node(COMPARISONS[node.op], a, b), x, y)
        if node.op == "log1p":
            one = self._number(np.ones((), NUMPY[self.dtype]))
            return self._node("Log", self._node("Add", arguments[0], one))
        if node.op in OVER_ROW:
            return self._node(OVER_ROW[node.op], arguments[0], self._number(np.array([-1])), keepdims=1)
        return self._node(OF_OPERATION[node.op], *arguments)

    def _product(self, operand: int, value: Any) -> dict[str, Any]:
        if operand not in self.products:
            gates, matrix, bias = self.matrices[operand]
            product = self._node("Gemm", value, matrix, *([] if bias is None else [bias]), transB=1)
            if self.cell is cells.forward_backward:
                self.nodes[-1].metadata_props[EXACT] = "of probabilities"
            self.products[operand] = dict(zip(gates, self._split(product, len(gates)), strict=True))
        return self.products[operand]

    def _split(self, value: Any, count: int) -> Sequence[Any]:
        if count == 1:
            return [value]
        node = ir.node("Split", [value], attributes={"axis": 1, "num_outputs": count}, num_outputs=count)
        return self._added(node)

    def _node(self, kind: str, *inputs: Any, **attributes: Any) -> Any:
        return self._added(ir.node(kind, list(inputs), attributes=attributes, num_outputs=1))[0]

    def _number(self, value: Any) -> Any:
        return self._node("Constant", value=ir.tensor(value))

    def _added(self, node: ir.Node) -> Sequence[Any]:
        for output in node.outputs:
            self.count += 1
            output.name = f"{self.name}_{self.count}"
        self.nodes.append(node)
        return node.outputs

    def _value(self, name: str, width: int, dtype: Any = None) -> ir.Value:
        shape = ir.Shape([self.batch, width])
        return ir.Value(name=f"{self.name}_{name}", shape=shape, type=ir.TensorType(dtype or self.dtype))


def write(node: ir.Node) -> None:
    """Adds a node to the graph that the exporter records. onnxscript's own call of Scan does not know how many outputs it has."""
    recorder: Any = evaluator.default()
    recorder.nodes.append(node)


class Nodes:
    """Adds nodes to a graph, each with one output."""

    def __init__(self, graph: ir.Graph, name: str):
        self.graph, self.name, self.count = graph, name, 0

    def __call__(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(kind, list(inputs), attributes=attributes, num_outputs=1)
        self.count += 1
        node.outputs[0].name = f"{self.name}_{self.count}"
        self.graph.append(node)
        return node.outputs[0]

    def constant(self, value: Any) -> ir.Value:
        return self("Constant", value=ir.tensor(value if isinstance(value, np.generic) else np.array(value, np.int64)))
