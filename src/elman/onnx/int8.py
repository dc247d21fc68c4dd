"""Products with weights in integers of 8 bits, for ONNX Runtime on CPUs: about a quarter of the memory to read.

    x W ~ s_x s_w (q_x - z_x) q_w       q_x = round(x / s_x) + z_x in 0 ... 255, s_x and z_x from the smallest and largest x
                                        q_w = round(w / s_w) in -63 ... 63, s_w = max |w| / 63 of each column

Weights have 7 bits: processors with AVX2 alone add two products in 16 bits, which overflow with 8 (errors of 8 to 20 % were
seen instead of 0.5 %). Biases, states and everything else stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from elman.onnx.scan import EXACT

TOP = 63  # the largest weight as an integer
DOMAIN = "com.microsoft"  # of the LSTM that only ONNX Runtime knows


def quantize(model: ir.Model) -> None:
    """Replaces every product with a constant matrix by one in integers, in bodies of loops as well, and every LSTM.

    Products of probabilities stay, which `scan.EXACT` marks: small ones count as well.
    """
    weights = _Weights(model)
    for node in list(model.graph.all_nodes()):
        if node.op_type == "LSTM" and node.domain == "":
            _lstm(model, node, weights)
        elif EXACT in node.metadata_props:
            continue
        elif node.op_type in ("MatMul", "Gemm") and node.domain == "" and weights.matrix(node.inputs[1]) is not None:
            _product(node, weights)
    weights.remove_unused()


class _Weights:
    """The constants of a model: old ones in floating point, new ones in integers."""

    def __init__(self, model: ir.Model):
        self.graph, self._made = model.graph, dict[Any, tuple[ir.Value, ...]]()

    def matrix(self, value: ir.Value | None) -> NDArray[Any] | None:
        """Returns the matrix that a value always is; None if it is no such thing."""
        if value is None or value.const_value is None or len(value.const_value.shape) != 2:
            return None
        return value.const_value.numpy()

    def integers(self, value: ir.Value, columns: NDArray[Any], name: str) -> tuple[ir.Value, ...]:
        """Returns a matrix (..., K, N) in integers, the scale of each column (..., N) in floats, and zeros for each, (..., N).

        columns: the matrix, turned so that it stands behind x. name: says how it was turned.
        """
        if columns.dtype != np.float32:
            raise TypeError(
                f"int8 is made of float32, but {value.name} is {columns.dtype}; convert the model with .float()"
            )
        key = value, name
        if key not in self._made:
            scale = np.maximum(np.abs(columns).max(-2), np.finfo(np.float32).tiny).astype(np.float32) / TOP
            whole = np.round(columns / scale[..., None, :]).clip(-TOP, TOP).astype(np.int8)
            parts = {"int8": whole, "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
            self._made[key] = tuple(self.add(f"{value.name}_{name}_{part}", array) for part, array in parts.items())
        return self._made[key]

    def add(self, name: str, array: NDArray[Any]) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name), type=ir.TensorType(ir.tensor(array).dtype))
        value.shape = ir.Shape(array.shape)
        self.graph.initializers[name] = value
        return value

    def remove_unused(self) -> None:
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and value not in self.graph.inputs:
                del self.graph.initializers[name]


def _product(node: ir.Node, weights: _Weights) -> None:
    x, w, *bias = node.inputs
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        return
    assert w is not None
    matrix = weights.matrix(w)
    assert matrix is not None
    turned = bool(given.get("transB", 0))
    q_w, s_w, _ = weights.integers(w, matrix.T if turned else matrix, "turned" if turned else "as_it_is")
    output, graph, made = node.outputs[0], node.graph, list[ir.Node]()
    assert graph is not None

    def add(kind: str, *inputs: Any, count: int = 1, **attributes: Any) -> list[ir.Value]:
        made.append(ir.node(kind, list(inputs), attributes=attributes, num_outputs=count))
        for k, value in enumerate(made[-1].outputs):
            value.name = f"{output.name}_int8_{len(made)}_{k}"
        return list(made[-1].outputs)

    q_x, s_x, z_x = add("DynamicQuantizeLinear", x, count=3)
    (whole,) = add("MatMulInteger", q_x, q_w, z_x)
    (scale,) = add("Mul", s_x, s_w)
    (product,) = add("Cast", whole, to=ir.DataType.FLOAT.value)
    (result,) = add("Mul", product, scale)
    if bias:
        (result,) = add("Add", result, bias[0])
    _replace(node, made, [result])


def _lstm(model: ir.Model, node: ir.Node, weights: _Weights) -> None:
    x, w, r, *rest = node.inputs
    turned = []
    for value in (w, r):
        if value is None or value.const_value is None:
            return
        turned.append(weights.integers(value, value.const_value.numpy().transpose(0, 2, 1), "turned"))
    (q_w, s_w, z_w), (q_r, s_r, z_r) = turned
    rest = [*rest, *[None] * (5 - len(rest))]
    made = ir.Node(
        DOMAIN,
        "DynamicQuantizeLSTM",
        [x, q_w, q_r, *rest, s_w, z_w, s_r, z_r],
        attributes=[each for name, each in node.attributes.items() if name != "layout"],  # which it has not
        num_outputs=len(node.outputs),
    )
    model.opset_imports[DOMAIN] = 1
    _replace(node, [made], list(made.outputs))


def _replace(node: ir.Node, made: list[ir.Node], results: list[ir.Value]) -> None:
    """Puts nodes in the place of one, whose outputs are then these results."""
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, made)
    for old, new in zip(node.outputs, results, strict=True):
        name, new.type, new.shape = old.name, old.type, old.shape
        for user, place in list(old.uses()):
            user.replace_input_with(place, new)
        for place, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[place] = new
        old.name, new.name = f"{name}_before", name
    graph.remove(node, safe=True)  # which also lets go of its weights
