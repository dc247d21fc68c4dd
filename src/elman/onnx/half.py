"""Products in float16 that ONNX Runtime can open.

MatMul(Transpose(x), W)     ends ONNX Runtime's process when it opens the file, if x is in float16 and has three axes
Reshape(MatMul(Reshape(Transpose(x)), W))     does not, and is the same
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def flatten(model: ir.Model) -> None:
    """Puts all rows of a transposed x in float16 under each other before they are multiplied by a matrix."""
    for node in list(model.graph.all_nodes()):
        if node.op_type == "MatMul" and node.domain == "":
            x, w = node.inputs
            assert x is not None
            assert w is not None
            before = x.producer()
            if before is not None and before.op_type == "Transpose" and w.dtype == ir.DataType.FLOAT16:
                _flatten(node, x, w)


def _flatten(node: ir.Node, x: ir.Value, w: ir.Value) -> None:
    graph, (product,) = node.graph, node.outputs
    if w.const_value is None or len(w.const_value.shape) != 2:
        return
    assert graph is not None
    width, height = w.const_value.numpy().shape
    made = list[ir.Node]()

    def add(kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        made.append(ir.node(kind, list(inputs), attributes=attributes, num_outputs=1))
        made[-1].outputs[0].name = f"{product.name}_flat_{len(made)}"
        return made[-1].outputs[0]

    def constant(*values: int) -> ir.Value:
        return add("Constant", value=ir.tensor(np.array(values, np.int64)))

    rows = add("MatMul", add("Reshape", x, constant(-1, width)), w)
    shape = add("Concat", add("Shape", x, start=0, end=-1), constant(height), axis=0)
    result = add("Reshape", rows, shape)
    result.type, result.shape = product.type, product.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, [product], [result])
