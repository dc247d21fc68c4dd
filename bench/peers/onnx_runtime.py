"""ONNX Runtime: inference by a model of one operator, its weights constants of the model as in an exported one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from elman import cells
from elman.layout import Weights, onnx_form
from peers import Arrays, Prepared

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from onnx_nodes import to_onnx  # pyright: ignore[reportMissingImports]

VERSION = onnxruntime.__version__


def session(cell: str, arrays: Arrays, given: Arrays) -> onnxruntime.InferenceSession:
    """A model of one node that takes `given` and holds the weights."""
    form = onnx_form(cells.by_name(cell))
    assert form is not None
    weights = Weights(*(torch.from_numpy(arrays[name]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))
    if "weight_ch" in arrays:
        weights = weights._replace(ch=torch.from_numpy(arrays["weight_ch"]))
    packed = {name: tensor.unsqueeze(0).numpy() for name, tensor in to_onnx(cells.by_name(cell), weights).items()}
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    attributes: dict[str, Any] = dict(form.attributes)
    node = helper.make_node(
        form.operator,
        inputs=[
            name if name in given or name in packed else "" for name in order[: 8 if form.operator == "LSTM" else 6]
        ],
        outputs=["Y", "Y_h", "Y_c"][: len(given)],
        hidden_size=arrays["h_0"].shape[1],
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        cell,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in given.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * (4 if name == "Y" else 3))
            for name in node.output
        ],
        initializer=[numpy_helper.from_array(array, name) for name, array in packed.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def prepare(cell: str, arrays: Arrays, training: bool) -> Prepared | None:
    if training:
        return None
    given = {"X": arrays["x"], "initial_h": arrays["h_0"][None]}
    if "c_0" in arrays:
        given["initial_c"] = arrays["c_0"][None]
    ready = session(cell, arrays, given)

    def call() -> Any:
        return ready.run(None, given)

    def results() -> Arrays:
        y, *final = call()  # y: (T, 1, B, H)
        named = {"output": y[:, 0]} | {name: state[0] for name, state in zip(("h_n", "c_n"), final, strict=False)}
        return {name: np.asarray(value) for name, value in named.items()}

    return Prepared(call, results)
