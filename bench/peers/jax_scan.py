"""The cells in JAX: `lax.scan` under `jit`, the input's share of all steps in one product before the scan."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import relu, sigmoid
from jax.numpy import tanh

from peers import Arrays, Prepared

VERSION = jax.__version__
Step = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]  # the input's share (B, G*H), the state -> the state

# Matrices lie as JAX's own users keep them, (I, G*H) and (H, G*H): a transpose inside the scan is a copy at
# every step. So is a slice, so each cell cuts its weights before the scan.


def rnn(p) -> Step:
    return lambda x, state: (tanh(x + state[0] @ p["weight_hh"]),)


def rnn_relu(p) -> Step:
    return lambda x, state: (relu(x + state[0] @ p["weight_hh"]),)


def lstm(p) -> Step:
    def step(x, state):
        h, c = state
        i, f, g, o = jnp.split(x + h @ p["weight_hh"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    return step


def peephole_lstm(p) -> Step:
    p_i, p_f, p_o = p["weight_ch"]

    def step(x, state):
        h, c = state
        i, f, g, o = jnp.split(x + h @ p["weight_hh"], 4, axis=1)
        c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
        return sigmoid(o + p_o * c) * tanh(c), c

    return step


def coupled_lstm(p) -> Step:
    def step(x, state):
        h, c = state
        f, g, o = jnp.split(x + h @ p["weight_hh"], 3, axis=1)
        f = sigmoid(f)
        c = f * c + (1 - f) * tanh(g)
        return sigmoid(o) * tanh(c), c

    return step


def coupled_peephole_lstm(p) -> Step:
    p_f, p_o = p["weight_ch"]

    def step(x, state):
        h, c = state
        f, g, o = jnp.split(x + h @ p["weight_hh"], 3, axis=1)
        f = sigmoid(f + p_f * c)
        c = f * c + (1 - f) * tanh(g)
        return sigmoid(o + p_o * c) * tanh(c), c

    return step


def gru(p) -> Step:
    def step(x, state):
        (h,) = state
        x_r, x_z, x_n = jnp.split(x, 3, axis=1)
        r, z, n = jnp.split(h @ p["weight_hh"] + p["bias_hh"], 3, axis=1)
        z = sigmoid(x_z + z)
        return ((1 - z) * tanh(x_n + sigmoid(x_r + r) * n) + z * h,)

    return step


def gru_before(p) -> Step:
    size = p["weight_hh"].shape[0]
    R_rz, R_n = p["weight_hh"][:, : 2 * size], p["weight_hh"][:, 2 * size :]

    def step(x, state):
        (h,) = state
        r, z = jnp.split(sigmoid(x[:, : 2 * size] + h @ R_rz), 2, axis=1)
        n = tanh(x[:, 2 * size :] + (r * h) @ R_n)
        return ((1 - z) * n + z * h,)

    return step


STEPS: dict[str, Callable[[dict[str, Any]], Step]] = {
    step.__name__: step
    for step in (rnn, rnn_relu, lstm, peephole_lstm, coupled_lstm, coupled_peephole_lstm, gru, gru_before)
}


def layer(cell: str):
    def run(leaves):
        # The reset gate of `gru` multiplies the recurrent bias too, so there it stays inside the scan.
        bias = leaves["bias_ih"] + (0 if cell == "gru" else leaves["bias_hh"])
        step = STEPS[cell](leaves)

        def scanned(state, x):
            state = step(x, state)
            return state, state[0]

        initial = tuple(leaves[name] for name in ("h_0", "c_0") if name in leaves)
        final, output = jax.lax.scan(scanned, initial, leaves["x"] @ leaves["weight_ih"] + bias)
        return (output, *final)

    return run


def turned(named: dict[str, Any]) -> dict[str, Any]:
    """Matrices from elman's layout to JAX's, and gradients back."""
    return {name: array.T if name.endswith(("_ih", "_hh")) else array for name, array in named.items()}


def prepare(cell: str, arrays: Arrays, training: bool) -> Prepared:
    leaves = {name: jnp.asarray(array) for name, array in turned(arrays).items() if not name.startswith("d_")}
    cotangents = tuple(jnp.asarray(arrays[name]) for name in ("d_output", "d_h_n", "d_c_n") if name in arrays)
    forward = layer(cell)

    def train(leaves, cotangents):
        values, pull_back = jax.vjp(forward, leaves)
        return values, pull_back(cotangents)[0]

    compiled = jax.jit(train) if training else jax.jit(forward)

    def call() -> Any:
        return jax.block_until_ready(compiled(leaves, cotangents) if training else compiled(leaves))

    def results() -> Arrays:
        values, gradients = call() if training else (call(), {})
        named = dict(zip(("output", "h_n", "c_n"), values, strict=False))
        named |= {f"d_{name}": gradient for name, gradient in turned(gradients).items()}
        return {name: np.asarray(value) for name, value in named.items()}

    return Prepared(call, results)
