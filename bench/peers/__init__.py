"""Those who are compared: one module each, run in a process of its own by `worker.py`.

A module has VERSION and `prepare(cell, arrays, training)`, which takes the problem's arrays in elman's
layout (see `problems.write`) and returns a `Prepared`, or None where it lacks the cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]


class Prepared(NamedTuple):
    """One problem, ready to be timed."""

    call: Callable[[], Any]  # the timed call; returns when the results are there
    # output, h_n, c_n, and the gradients as d_x, d_h_0, d_weight_ih ...: each as elman has it
    results: Callable[[], Arrays]
    engine: str = ""


MODULES = {
    "elman": "elman_layer",
    "torch.nn": "torch_nn",
    "eager loop": "torch_loop",
    "torchrecurrent": "torchrecurrent_layer",
    "JAX": "jax_scan",
    "ONNX Runtime": "onnx_runtime",
    "Keras": "keras_layer",
}
DEFAULT = tuple(name for name in MODULES if name != "Keras")
ALL = tuple(MODULES)
IN_PYTORCH = ("torch.nn", "eager loop", "torchrecurrent")
