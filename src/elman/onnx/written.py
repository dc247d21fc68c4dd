"""A cell in a Scan: what the export notes down about it, and how it is read again.

The note says how the step is computed and what its parts are called. The numbers, and the proof that the note is true, come from
the body of the Scan: every node of the body has to be one of the note.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto

from elman import cells, graph
from elman.cell import Cell, State
from elman.convert import as_tensor
from elman.graph import Node
from elman.layout import Weights, parameter_name
from elman.leaves import LEAVES, MATRICES
from elman.onnx.activations import Problem
from elman.onnx.external import text
from elman.onnx.node import Reverse, value_of
from elman.operations import OPERATIONS
from elman.recurrent import Recurrent

KEY = "elman.cell"  # of the metadata of a Scan
MOST = 10_000  # nodes of a step
OF_OPERATION = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "neg": "Neg", "sigmoid": "Sigmoid", "tanh": "Tanh",
    "relu": "Relu", "exp": "Exp", "log": "Log", "erf": "Erf", "sqrt": "Sqrt", "abs": "Abs", "maximum": "Max", "minimum": "Min",
}  # fmt: skip
OVER_ROW = {"mean": "ReduceMean", "sum": "ReduceSum"}  # over the last axis, which stays
COMPARISONS = {"where_less": "Less", "where_less_equal": "LessOrEqual", "where_equal": "Equal"}
_NAMED = {operator: operation for operation, operator in (OF_OPERATION | OVER_ROW).items()}
_COMPARED = {operator: operation for operation, operator in COMPARISONS.items()}
_ARGUMENTS = {name: len(operation.shares) for name, operation in OPERATIONS.items()}  # how many a node has
_ARGUMENTS |= dict.fromkeys(MATRICES, 1) | dict.fromkeys(LEAVES, 0) | {"number": 0}
_INPUTS = {"Identity": (1,), "Split": (1,), "Gemm": (2, 3), "Where": (3,)}  # how many a node of a body may have
_INPUTS |= dict.fromkeys(_COMPARED, (2,)) | {operator: (_ARGUMENTS[name],) for operator, name in _NAMED.items()}
_INPUTS |= dict.fromkeys(OVER_ROW.values(), (2,))
_USUAL = {"Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}, "Split": {"axis": 0}}  # attributes left out
_USUAL |= {operator: {"keepdims": 1, "noop_with_empty_axes": 0} for operator in OVER_ROW.values()}
_WRITTEN = {"Gemm": {"transB": 1}, "Split": {"axis": 1}}
CHANGED = "it is not what elman writes for its cell; export the layer again"


def note(cell: Cell) -> str:
    """Returns a cell as JSON in ASCII: its names, and its step as a graph."""
    traced = graph.trace(cell)
    names = {field: getattr(cell, field) for field in ("name", "gates", "states", "vectors", "projected")}
    nodes = [[n.op, [a.index for a in n.arguments], n.name, n.value] for n in traced.nodes]
    outputs = {name: node.index for name, node in traced.outputs.items()}
    names |= {"streams": cell.streams} if cell.streams else {}
    return json.dumps(names | {"nodes": nodes, "outputs": outputs})


@dataclass(frozen=True)
class Steps:
    """A step that was read: the nodes of its graph, each (operation, arguments, name, value), and which are the new states."""

    nodes: tuple[tuple[str, tuple[int, ...], str, float], ...]
    outputs: tuple[tuple[str, int], ...]

    def __call__(self, x: Any, R: Any, s: Any, p: Any, P: Any, u: Any) -> State:
        given, values = {"x": x, "R": R, "s": s, "p": p, "P": P, "u": u}, list[Any]()
        for op, arguments, name, value in self.nodes:
            inside = [values[index] for index in arguments]
            if op == "number":
                values.append(value)
            elif op in LEAVES:
                values.append(getattr(given[op], name))
            elif op in MATRICES:
                values.append(getattr(given[op], name) @ inside[0])
            else:
                operation = OPERATIONS[op]
                symbolic = any(isinstance(each, Node) for each in inside)
                values.append(operation(*inside) if symbolic else operation.compute(*inside))
        return State(**{name: values[index] for name, index in self.outputs})


def cell_of(said: str) -> Cell:
    """Returns the cell that a note describes: the built-in one with the same equations and names, if there is one.

    Raises Problem if the note makes no sense.
    """
    try:
        content = json.loads(said)
        nodes = [(op, tuple(arguments), name, float(value)) for op, arguments, name, value in content["nodes"]]
        if len(nodes) > MOST:
            raise ValueError(f"{len(nodes)} nodes are more than {MOST}")
        for place, (op, arguments, _, _) in enumerate(nodes):
            if len(arguments) != _ARGUMENTS[op] or not all(type(a) is int and 0 <= a < place for a in arguments):
                raise ValueError(f"node {place}, {op}, has the arguments {arguments}")
        outputs = tuple((str(name), range(len(nodes))[index]) for name, index in content["outputs"].items())
        gates, states, vectors, projected = (
            tuple(map(str, content[field])) for field in ("gates", "states", "vectors", "projected")
        )
        streams = tuple(map(str, content.get("streams", ())))
        step, name = Steps(tuple(nodes), outputs), str(content["name"])
        made = Cell(step, gates, states, vectors, projected, name=name, streams=streams)
        same, digits = made.anatomy, graph.equations(made)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Problem(f"its note of a cell makes no sense ({str(error)[:120]}); export the layer again") from error
    names = gates, states, vectors, projected, streams, same
    for own in cells.BUILT_IN.values():
        its = own.gates, own.states, own.vectors, own.projected, own.streams, own.anatomy
        if its == names and graph.equations(own) == digits:
            return own
    return made


def is_written(node: NodeProto) -> bool:
    return node.op_type == "Scan" and any(each.key == KEY for each in node.metadata_props)


def layer_of(
    node: NodeProto,
    outer: Callable[[str], NDArray[Any] | None],
    inner: Callable[[str], NDArray[Any] | None],
    maker: Callable[[str], Any],
) -> Recurrent:
    """Returns the layer of a Scan that elman wrote. Raises Problem if the Scan is not what its note says.

    outer, inner: give the value of a name outside and inside of the body, None if it is no constant. maker: gives what makes a
    value outside.
    """
    cell = cell_of(next(text(each.value) for each in node.metadata_props if each.key == KEY))
    body = next((each.g for each in node.attribute if each.name == "body" and each.type == AttributeProto.GRAPH), None)
    directions = next((list(each.ints) for each in node.attribute if each.name == "scan_input_directions"), [0])
    states = len(cell.states)
    if body is None or len(body.input) <= states or len(node.input) != len(body.input) or not directions:
        raise Problem(CHANGED)
    weights, width = _Body(cell, body, inner).weights(), 0
    if cell.anatomy.input_gates:
        ih, b_ih = _input_weights(node.input[states], outer, maker)
        weights = weights._replace(ih=ih, b_ih=b_ih)
        width = ih.shape[1]
    else:
        width = _width(body.input[states])
    return _layer(cell, weights, max(1, width), max(1, _width(body.input[0])), bool(directions[0]))


def _width(value: Any) -> int:
    shape = value.type.tensor_type.shape.dim
    return shape[1].dim_value if len(shape) == 2 else 0


def _input_weights(
    share: str, outer: Callable[[str], NDArray[Any] | None], maker: Callable[[str], Any]
) -> tuple[Any, Any]:
    """Returns W (G*H, I) and b (G*H,), if there is one, of x W + b."""
    made = maker(share)
    if isinstance(made, NodeProto) and made.op_type == "Reshape" and made.input:
        made = maker(made.input[0])
    given = (
        list(made.input[1:]) if isinstance(made, NodeProto) and made.op_type == "Gemm" and _is_as_written(made) else []
    )
    weight, bias = ([outer(name) for name in given] + [None, None])[:2]
    whole = weight is not None and weight.ndim == 2
    if weight is None or not whole or (len(given) > 1 and (bias is None or bias.shape != weight.shape[:1])):
        raise Problem(f"the weights of its input are not constant, or not in the form of elman's export; {CHANGED}")
    return weight, bias


def _is_as_written(node: NodeProto) -> bool:
    """Whether the attributes of a node say what those that elman writes say."""
    usual = _USUAL.get(node.op_type, {})
    given = {text(each.name): value_of(each) for each in node.attribute}
    return all((usual | given)[name] == value for name, value in (usual | _WRITTEN.get(node.op_type, {})).items())


class _Mask:
    """Which rows have a step, or go on in it."""


class _Unread(NamedTuple):
    """A state, a stream or a gate's share that no node of the graph reads."""

    name: str


class _Shares(NamedTuple):
    """What several gates get, in one value: their shares of the input, or their products with an operand."""

    op: str
    gates: tuple[str, ...]
    operand: tuple[int, ...]


class _Compared(NamedTuple):
    """The outcome of a comparison, by which a Where chooses."""

    op: str
    inputs: tuple[_Value, ...]


class _OneMore(NamedTuple):
    """A node's value plus one, for a log1p."""

    than: int


# What a value of a body is: a node of the graph, by its number; a constant, by its name; or what a graph does not have.
_Value = int | str | _Mask | _Unread | _Shares | _Compared | _OneMore


class _Body:
    """Follows the nodes of a body, and says of each value what it is."""

    def __init__(self, cell: Cell, body: GraphProto, constant: Callable[[str], NDArray[Any] | None]):
        self.cell, self.body, self.constant = cell, body, constant
        self.traced = graph.trace(cell).needed()
        self.places = {
            (n.op, tuple(a.index for a in n.arguments), n.name): n.index for n in self.traced.nodes if n.op != "number"
        }
        # By operation and arguments, of which those are None that are constants in a body.
        self.alike: dict[tuple[Any, ...], list[Node]] = {}
        for node in self.traced.nodes:
            known = tuple(None if a.op in ("number", "p") else a.index for a in node.arguments)
            self.alike.setdefault((node.op, known), []).append(node)
        self.values: dict[str, _Value] = {}
        self.vectors: dict[str, NDArray[Any]] = {}
        self.matrices: dict[str, NDArray[Any]] = {}  # of each gate (H, Y), and of the projection by "P"
        self.biases: dict[str, NDArray[Any]] = {}

    def weights(self) -> Weights:
        """Returns all weights but those of the input. Raises Problem for a node that the cell does not have."""
        names = [each.name for each in self.body.input]
        states, (share, *rest) = names[: len(self.cell.states)], names[len(self.cell.states) :]
        streams, masks = rest[: len(self.cell.streams)], rest[len(self.cell.streams) :]
        if len(streams) != len(self.cell.streams):
            raise Problem(CHANGED)
        for stream, name in zip(self.cell.streams, streams, strict=True):
            self.values[name] = self._place("u", (), stream, _Unread(stream))
        self.values |= dict.fromkeys(masks, _Mask())
        for state, name in zip(self.cell.states, states, strict=True):
            self.values[name] = self._place("s", (), state, _Unread(state))
        gates = self.cell.anatomy.input_gates
        self.values[share] = self._place("x", (), gates[0]) if len(gates) == 1 else _Shares("x", gates, ())
        for node in self.body.node:
            if node.op_type != "Constant":
                results = self._follow(node)
                if len(results) != len(node.output):
                    raise Problem(CHANGED)
                self.values |= dict(zip(node.output, results, strict=True))
        outputs = [self.values.get(each.name) for each in self.body.output]
        new = [self.traced.outputs[state].index for state in self.cell.states]
        if outputs != [*new, new[0]]:
            raise Problem(CHANGED)
        return self._stacked()

    def _stacked(self) -> Weights:
        recurrent = self.cell.anatomy.recurrent_gates
        wanted = {*recurrent, *(("P",) if self.cell.projected else ())}
        missing = (wanted - self.matrices.keys()) | (set(self.cell.vectors) - self.vectors.keys())
        if self.biases and self.biases.keys() != set(recurrent):
            raise Problem(CHANGED)
        if missing:
            raise Problem(f"it does not use {', '.join(sorted(missing))}, which its note has; export the layer again")
        hh = np.concatenate([self.matrices[gate] for gate in recurrent]) if recurrent else None
        b_hh = np.concatenate([self.biases[gate] for gate in recurrent]) if self.biases else None
        ch = np.stack([self.vectors[name] for name in self.cell.vectors]) if self.cell.vectors else None
        every: tuple[Any, ...] = (None, hh, None, b_hh, self.matrices.get("P"), ch)
        return Weights(*every)

    def _place(self, op: str, arguments: tuple[int, ...], name: str, otherwise: _Value | None = None) -> _Value:
        found = self.places.get((op, arguments, name), otherwise)
        if found is None:
            raise Problem(CHANGED)
        return found

    def _follow(self, node: NodeProto) -> list[_Value]:
        kind, inputs = node.op_type, [self.values.get(name, name) for name in node.input]
        if len(inputs) not in _INPUTS.get(kind, ()) or not _is_as_written(node):
            raise Problem(CHANGED)
        if kind == "Identity":
            return inputs
        if kind == "Split":
            return self._shares(inputs[0])
        if kind == "Gemm":
            return [self._product(node, inputs[0])]
        if kind == "Where":
            return [self._choice(*inputs)]
        if kind in _COMPARED:
            return [_Compared(_COMPARED[kind], tuple(inputs))]
        if kind == "Log" and isinstance(inputs[0], _OneMore):
            return [self._place("log1p", (inputs[0].than,), "")]
        if kind in OVER_ROW.values():
            axes = self.constant(node.input[1])
            if axes is None or axes.tolist() != [-1]:
                raise Problem(CHANGED)
            inputs = inputs[:1]
        return [self._applied(_NAMED[kind], inputs)]

    def _applied(self, op: str, inputs: Sequence[_Value]) -> _Value:
        """Returns the node of the graph that has this operation and these arguments."""
        known = tuple(None if isinstance(each, str) else each for each in inputs)
        for node in self.alike.get((op, known), ()):
            vectors = self._vectors(inputs, node)
            if vectors is not None:
                self.vectors |= vectors
                return node.index
        if op == "add" and isinstance(inputs[0], int) and isinstance(inputs[1], str):
            value = self.constant(inputs[1])
            if value is not None and _is_number(value, 1.0):
                return _OneMore(inputs[0])
        raise Problem(CHANGED)

    def _vectors(self, inputs: Sequence[_Value], node: Node) -> dict[str, NDArray[Any]] | None:
        """Returns the vectors among the constants that a node gets, by name; None if these may not be its arguments."""
        vectors = dict[str, NDArray[Any]]()
        for given, argument in zip(inputs, node.arguments, strict=True):
            if not isinstance(given, str):
                continue
            value = self.constant(given)
            if value is None:
                raise Problem(CHANGED)
            if argument.op == "number":
                if not _is_number(value, argument.value):
                    return None
                continue
            # The first vector that is not known yet: elman writes the nodes of a body in the order of the graph.
            known = self.vectors.get(argument.name)
            if value.ndim != 1 or not (known is None or known is value):
                return None
            vectors[argument.name] = value
        return vectors

    def _shares(self, given: _Value) -> list[_Value]:
        if not isinstance(given, _Shares):
            raise Problem(CHANGED)
        return [self._place(given.op, given.operand, gate, _Unread(gate)) for gate in given.gates]

    def _product(self, node: NodeProto, operand: _Value) -> _Value:
        matrix = self.constant(node.input[1])
        bias = self.constant(node.input[2]) if len(node.input) > 2 else None
        whole = bias is not None or len(node.input) == 2
        if matrix is None or matrix.ndim != 2 or not whole or not isinstance(operand, int):
            raise Problem(f"its recurrent weights are not constant; {CHANGED}")
        traced = [n for n in self.traced.nodes if n.arguments and n.arguments[0].index == operand]
        gates = tuple(dict.fromkeys(n.name for n in traced if n.op == "R"))
        projections = [n.index for n in traced if n.op == "P"]
        if projections and not (gates and not self.matrices.keys() >= set(gates)):
            self.matrices["P"] = matrix
            return projections[0]
        if not gates or len(matrix) % len(gates) or (bias is not None and bias.shape != (len(matrix),)):
            raise Problem(CHANGED)
        for name, rows in zip(gates, np.split(matrix, len(gates)), strict=True):
            self.matrices[name] = rows
        for name, rows in zip(gates, [] if bias is None else np.split(bias, len(gates)), strict=False):
            self.biases[name] = rows
        return self._place("R", (operand,), gates[0]) if len(gates) == 1 else _Shares("R", gates, (operand,))

    def _choice(self, condition: _Value, x: _Value, y: _Value) -> _Value:
        # A mask chooses between a value and what stands for steps that a row does not have; the graph has only the value.
        if isinstance(condition, _Mask):
            return x
        if isinstance(condition, _Compared):
            return self._applied(condition.op, [*condition.inputs, x, y])
        raise Problem(CHANGED)


def _is_number(value: NDArray[Any], number: float) -> bool:
    return value.ndim == 0 and np.array_equal(value, np.array(number, value.dtype), equal_nan=True)


def _layer(cell: Cell, weights: Weights, input_size: int, units: int, reverse: bool) -> Recurrent:
    """units: the number of units of a layer that has no weights, which would say it."""
    known = {field: value for field, value in weights._asdict().items() if value is not None}
    count = len(cell.anatomy.input_gates), len(cell.anatomy.recurrent_gates)
    whole, gates = (weights.ih, count[0]) if weights.ih is not None else (weights.hh, count[1])
    if whole is not None:
        if len(whole) % gates:
            raise Problem(CHANGED)
        units = len(whole) // gates
    else:
        units = next((each.shape[1] for each in (weights.hr, weights.ch) if each is not None), units)
    tensors = {field: as_tensor(value) for field, value in known.items()}
    layer = (Reverse if reverse else Recurrent)(
        cell,
        input_size,
        units,
        bias=weights.b_ih is not None or weights.b_hh is not None,
        proj_size=0 if weights.hr is None else len(weights.hr),
        device="meta",
        dtype=next((each.dtype for each in tensors.values()), None),
    )
    named = {parameter_name(field, 0, reverse): tensor for field, tensor in tensors.items()}
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    if {name: tuple(tensor.shape) for name, tensor in named.items()} != shapes:
        raise Problem(f"its weights do not fit each other; {CHANGED}")
    layer.load_state_dict(named, assign=True)
    return layer
