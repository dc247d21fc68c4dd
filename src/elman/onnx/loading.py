"""Reads the recurrent nodes of an ONNX file as layers."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from elman.convert import as_tensor
from elman.errors import InputError
from elman.onnx.activations import Problem
from elman.onnx.constants import CONSTANT, Array, Constants, Scope
from elman.onnx.external import External, text
from elman.onnx.node import OPERATORS, bodies, is_recurrent, layers_of
from elman.onnx.written import is_written, layer_of
from elman.recurrent import Recurrent

Wanted = Callable[[NodeProto], bool]


def load(path: str | os.PathLike[str]) -> dict[str, Recurrent]:
    """Reads the RNN, LSTM and GRU nodes of an ONNX file, and Scan nodes that elman wrote, as trainable layers, in its order.

    The keys are the names of the nodes. A node without a name has that of its operator, such as "LSTM". A name that
    is taken gets a number: "LSTM_2", "LSTM_3". Nodes in the bodies of If, Loop and Scan are found too.

    A layer computes what its node computes:

    - It has a built-in cell where that has the equations of the node, and otherwise a cell made for the node: one with
      other activations, with their alpha and beta, or with a clip. A clip bounds the inputs of gates and candidates,
      as in ONNX Runtime, and not the cell state.
    - direction="reverse" is a layer of one direction that reads from the end (`elman.onnx.node.Reverse`). If the two
      directions of a node have different activations, it becomes two layers: NAME, and NAME.reverse, which reads from
      the end.
    - layout=1 is batch_first=True. The layer has the data type of the node's weights.
    - The node's Y is (T, D, B, H), and the layer's output (T, B, D*H). With layout=1, Y is (B, T, D, H), and the
      output (B, T, D*H). The final states Y_h and Y_c are the layer's, each (D, B, H), or (B, D, H) with layout=1.
    - A Scan that elman wrote (`elman.onnx.export`, or torch.onnx.export with elman's layers) has its own cell: it is a layer of
      one direction. It is refused if it was changed since. Scan nodes of another origin are left out.
    - Initial states are not part of the layer: the caller gives the node's initial_h and initial_c as `hx`, each
      (D, B, H). The node's sequence_lens are the layer's `lengths`.

    Weights are initializers, Constant nodes, or computed from these by simple nodes such as Transpose, Concat, Gather,
    Cast and Mul. They may be in other files, but only in the folder of the model; links are not followed.

    Raises InputError, which names the file, the node and the remedy: if the file is no ONNX model, has no recurrent
    node, or has one whose weights are not constant, are missing or do not fit each other, or whose activation is not
    supported (ThresholdedRelu; Affine and ScaledTanh without their numbers).
    """
    path = Path(path)
    model = read(path)
    try:
        return _layers(model, path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: a name in it is no text ({error.reason}); restore the file") from error


def read(path: Path) -> ModelProto:
    """Reads an ONNX file. Raises InputError if it is none, or cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
        with open(file, "rb") as opened:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise InputError(f"{path} is not a regular file; give an ONNX file")
            content = opened.read()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read {path}: {why}; give the path of an ONNX file") from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, among others
        raise InputError(
            f"{path} is not an ONNX file, or is damaged; give a file that ONNX can read ({error})"
        ) from error
    if not model.HasField("graph"):
        raise InputError(f"{path} is not an ONNX file: it holds no graph; give a file that an exporter to ONNX wrote")
    return model


def _layers(model: ModelProto, path: Path) -> dict[str, Recurrent]:
    constants = Constants(External(path.parent))
    nodes = list(recurrent_nodes(model))
    if not nodes:
        raise InputError(
            f"{path} has no recurrent node ({', '.join(OPERATORS)}) among its {len(model.graph.node)} nodes; "
            "give a model that has one"
        )
    found: dict[str, Recurrent] = {}
    names = node_names([node for node, _ in nodes])
    for name, (node, scope) in zip(names, nodes, strict=True):
        try:
            layers = (
                {"": _of_scan(node, scope, constants)}
                if is_written(node)
                else layers_of(node, lambda of, scope=scope: as_tensor(constants.value(of, scope)))
            )
        except Problem as problem:
            raise InputError(f"{path}: the node {name!r} ({node.op_type}) cannot be loaded: {problem}") from problem
        for suffix, layer in layers.items():
            found[_free(name + suffix, {*found, *names}) if suffix else name] = layer
    return found


def _of_scan(node: NodeProto, scope: Scope, constants: Constants) -> Recurrent:
    inner = Scope(scope.opsets, scope)
    for attribute in node.attribute:
        if attribute.name == "body":
            _fill(inner, attribute.g, "an input of the body of a Scan")

    def constant(name: str, within: Scope) -> Array | None:
        try:
            return constants.value(name, within)
        except Problem:
            return None

    return layer_of(
        node, lambda name: constant(name, scope), lambda name: constant(name, inner), lambda name: scope.find(name)[1]
    )


def node_names(nodes: list[NodeProto]) -> list[str]:
    """A name for each node: its own if no other has it, and a number behind it from the second on."""
    given = [text(node.name) for node in nodes]
    own = {name for name, count in Counter(given).items() if count == 1 and name}
    taken, names = set(own), []
    for name, node in zip(given, nodes, strict=True):
        names.append(name if name in own else _free(name or node.op_type, taken))
        taken.add(names[-1])
    return names


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def becomes_layers(node: NodeProto) -> bool:
    return is_recurrent(node) or is_written(node)


def recurrent_nodes(model: ModelProto, wanted: Wanted = becomes_layers) -> Iterator[tuple[NodeProto, Scope]]:
    """The recurrent nodes of a model and its functions, each with the scope that its inputs are found in.

    wanted: says which nodes count; if left out, those that become layers.
    """
    yield from _in_graph(model.graph, Scope(_opsets(model)), "an input of the model", wanted)
    for function in model.functions:
        scope = Scope(_opsets(function) or _opsets(model))
        for name in function.input:
            scope.add(name, f"is an input of the function {function.name!r}; inline it with onnx.inliner first")
        _fill_nodes(scope, function.node)
        yield from _among(function.node, scope, wanted)


def _opsets(of: ModelProto | FunctionProto) -> dict[str, int]:
    return {entry.domain: entry.version for entry in of.opset_import}


def _in_graph(graph: GraphProto, scope: Scope, inputs: str, wanted: Wanted) -> Iterator[tuple[NodeProto, Scope]]:
    """scope: a new one for the graph. inputs: what its inputs are, in words."""
    _fill(scope, graph, inputs)
    yield from _among(graph.node, scope, wanted)


def _fill(scope: Scope, graph: GraphProto, inputs: str) -> None:
    """Tells a scope what makes each value of a graph. inputs: what its inputs are, in words."""
    for tensor in graph.initializer:
        scope.add(tensor.name, tensor)
    for sparse in graph.sparse_initializer:
        scope.add(sparse.values.name, sparse)
    for value in graph.input:
        if value.name not in scope.makers:  # an initializer may be listed among the inputs, too
            scope.add(value.name, f"is not constant: it is {inputs}; {CONSTANT}")
    _fill_nodes(scope, graph.node)


def _fill_nodes(scope: Scope, nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        for output in node.output:
            if output:
                scope.add(output, node)


def _among(nodes: Iterable[NodeProto], scope: Scope, wanted: Wanted) -> Iterator[tuple[NodeProto, Scope]]:
    """Yields the recurrent nodes among these, and in their bodies, each with its scope, which knows what makes each value."""
    for node in nodes:
        if wanted(node):
            yield node, scope
        for graph in bodies(node):  # protobuf refuses messages nested 100 deep, so recursion is bounded
            inner = Scope(scope.opsets, scope)
            yield from _in_graph(graph, inner, f"an input of the body of a {node.op_type}", wanted)
