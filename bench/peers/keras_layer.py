"""Keras on TensorFlow, under `tf.function`, with and without XLA: the faster of the two counts."""

# pyright: reportMissingImports=false, reportMissingModuleSource=false
from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import tensorflow as tf

from peers import Arrays, Prepared

VERSION = f"{keras.__version__} on TensorFlow {tf.__version__}"
tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["OMP_NUM_THREADS"]))
tf.config.threading.set_inter_op_parallelism_threads(1)

ROWS = {"rnn": "h", "rnn_relu": "h", "lstm": "ifgo", "gru": "rzn", "gru_before": "rzn"}  # elman's order
KERAS_ROWS = {"rnn": "h", "rnn_relu": "h", "lstm": "ifgo", "gru": "zrn", "gru_before": "zrn"}


def reordered(array: np.ndarray, have: str, want: str) -> np.ndarray:
    """Row blocks (G*H, ...) put into another order."""
    blocks = dict(zip(have, np.split(array, len(have)), strict=True))
    return np.concatenate([blocks[gate] for gate in want])


def make(cell: str, size: int) -> Any:
    options = {"return_sequences": True, "return_state": True}
    if cell == "lstm":
        return keras.layers.LSTM(size, **options)
    if cell.startswith("gru"):
        return keras.layers.GRU(size, reset_after=cell == "gru", **options)
    return keras.layers.SimpleRNN(size, activation="relu" if cell == "rnn_relu" else "tanh", **options)


def prepare(cell: str, arrays: Arrays, training: bool) -> Prepared | None:
    if cell not in ROWS:
        return None
    have, want = ROWS[cell], KERAS_ROWS[cell]
    names = [name for name in ("h", "c") if f"{name}_0" in arrays]
    x = tf.constant(arrays["x"].transpose(1, 0, 2))  # (B, T, I) is Keras's own order
    states = [tf.constant(arrays[f"{name}_0"]) for name in names]
    cotangents = [tf.constant(arrays["d_output"].transpose(1, 0, 2))]
    cotangents += [tf.constant(arrays[f"d_{name}_n"]) for name in names]
    layer = make(cell, arrays["h_0"].shape[1])
    layer.build(x.shape)
    b_ih, b_hh = (reordered(arrays[name], have, want) for name in ("bias_ih", "bias_hh"))
    layer.set_weights(
        [
            reordered(arrays["weight_ih"], have, want).T,
            reordered(arrays["weight_hh"], have, want).T,
            np.stack([b_ih, b_hh]) if cell == "gru" else b_ih + b_hh,  # one bias serves all but this one
        ]
    )
    variables = [weight.value for weight in layer.trainable_weights]

    def infer(x, states):
        return layer(x, initial_state=states), ()

    def train(x, states):
        with tf.GradientTape() as tape:
            tape.watch([x, *states])
            values = layer(x, initial_state=states, training=True)
        return values, tape.gradient(values, [x, *states, *variables], output_gradients=cotangents)

    def timed(jit_compile: bool) -> tuple[float, Any]:
        compiled = tf.function(train if training else infer, jit_compile=jit_compile)

        def call() -> Any:
            values, gradients = compiled(x, states)
            values[0].numpy()  # waits; the array is a view
            return values, gradients

        call()
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin, call

    candidates = [timed(False)]
    with suppress(tf.errors.OpError):  # XLA does not take everything
        candidates.append(timed(True))
    call = min(candidates, key=lambda found: found[0])[1]

    def results() -> Arrays:
        values, gradients = call()
        named = dict(zip(("output", *(f"{name}_n" for name in names)), values, strict=True))
        named |= dict(zip(("d_x", *(f"d_{name}_0" for name in names)), gradients, strict=False))
        found = {name: value.numpy() for name, value in named.items()}
        for name, gradient in zip(("d_weight_ih", "d_weight_hh"), gradients[1 + len(names) :], strict=False):
            found[name] = reordered(gradient.numpy().T, want, have)
        return {name: value.transpose(1, 0, 2) if value.ndim == 3 else value for name, value in found.items()}

    return Prepared(call, results)
