"""Layers with the weights of Keras and Flax: against their equations in numpy, and against themselves where they are installed.

.venv-bench/bin/python -m pytest tests/test_convert.py     # after `make bench-all`
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from elman.convert import ACTIVATIONS, FLAX, KERAS, from_flax, from_keras
from elman.errors import InputError

Array = NDArray[Any]
INPUT, HIDDEN, BATCH, STEPS = 3, 5, 2, 7


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda v: np.maximum(v, 0),
    "linear": lambda v: v,
    "hard_sigmoid": lambda v: np.minimum(np.maximum(v + 3, 0), 6) / 6,
    "softsign": lambda v: v / (1 + np.abs(v)),
    "exponential": np.exp,
}


class Fake:
    """A layer as Keras has it, with random weights."""

    def __init__(self, kind: str, seed: int = 0, **config: Any) -> None:
        self.name = "fake"
        self.config: dict[str, Any] = {"use_bias": True, "reset_after": kind == "GRU"} | config
        gates, draw = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}[kind], np.random.default_rng(seed)
        bias = (2, gates * HIDDEN) if kind == "GRU" and self.config["reset_after"] else (gates * HIDDEN,)
        shapes = [(INPUT, gates * HIDDEN), (HIDDEN, gates * HIDDEN), *([bias] if self.config["use_bias"] else [])]
        self.weights = [draw.normal(size=shape) for shape in shapes]

    def get_config(self) -> dict[str, Any]:
        return self.config

    def get_weights(self) -> list[Array]:
        return self.weights

    def __call__(self, x: Array) -> Array:
        """As the documentation of keras.layers has it. x: (B, T, I)."""
        kind, (W, U, *rest) = type(self).__name__, self.weights
        b = rest[0] if rest else np.zeros(W.shape[1])
        b_in, b_rec = b if b.ndim == 2 else (b, np.zeros_like(b))
        g = FUNCTIONS[self.config.get("activation", "tanh")]
        f = FUNCTIONS[self.config.get("recurrent_activation", "sigmoid")]
        h = c = np.zeros((len(x), HIDDEN))
        outputs = []
        for t in range(x.shape[1]):
            inner = h @ U + b_rec
            outer = x[:, t] @ W + b_in
            if kind == "SimpleRNN":
                h = g(outer + inner)
            elif kind == "LSTM":
                z0, z1, z2, z3 = np.split(outer + inner, 4, -1)
                c = f(z1) * c + f(z0) * g(z2)
                h = f(z3) * g(c)
            else:
                (xz, xr, xh), (hz, hr, hh) = np.split(outer, 3, -1), np.split(inner, 3, -1)
                z, r = f(xz + hz), f(xr + hr)
                new = r * hh if self.config["reset_after"] else (r * h) @ U[:, 2 * HIDDEN :]
                h = z * h + (1 - z) * g(xh + new)
            outputs.append(h)
        return np.stack(outputs, 1)


def fake(kind: str, seed: int = 0, **config: Any) -> Any:
    return type(kind, (Fake,), {})(kind, seed, **config)


def inputs() -> Array:
    return np.random.default_rng(9).normal(size=(BATCH, STEPS, INPUT))


def close(layer: Any, x: Array, want: Array, tolerance: float = 1e-12) -> None:
    parameter = next(layer.parameters())
    with torch.no_grad():
        y, _ = layer(torch.from_numpy(x).to(parameter.dtype))
    np.testing.assert_allclose(y.numpy(), want, rtol=tolerance, atol=tolerance)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("SimpleRNN", {}),
    ("SimpleRNN", {"activation": "relu"}),
    ("SimpleRNN", {"use_bias": False}),
    ("LSTM", {}),
    ("LSTM", {"use_bias": False}),
    ("LSTM", {"activation": "softsign", "recurrent_activation": "hard_sigmoid"}),
    ("GRU", {}),
    ("GRU", {"reset_after": False}),
    ("GRU", {"use_bias": False}),
    ("GRU", {"activation": "linear", "recurrent_activation": "tanh"}),
    ("GRU", {"reset_after": False, "recurrent_activation": "hard_sigmoid"}),
]


@pytest.mark.parametrize(("kind", "config"), CASES)
def test_equations_of_keras(kind: str, config: dict[str, Any]) -> None:
    layer, x = fake(kind, **config), inputs() * 0.5
    found = from_keras(layer)
    close(found, x, layer(x))
    assert found.bias == config.get("use_bias", True)
    usual = not {"activation", "recurrent_activation"} & set(config)
    assert (found.cell in [cell for _, cell in KERAS.values()]) == usual
    assert all(parameter.requires_grad for parameter in found.parameters())


def both_of(forward: Any, backward: Any, **config: Any) -> Any:
    return SimpleNamespace(name="both", forward_layer=forward, backward_layer=backward, get_config=lambda: config)


@pytest.mark.parametrize("merge", ["concat", "sum", "ave"])
def test_both_directions_of_keras(merge: str) -> None:
    forward, backward, x = fake("GRU", 1), fake("GRU", 2, go_backwards=True), inputs()
    a, b = forward(x), backward(x[:, ::-1])[:, ::-1]
    close(
        from_keras(both_of(forward, backward, merge_mode=merge)),
        x,
        {"concat": np.concatenate([a, b], -1), "sum": a + b, "ave": (a + b) / 2}[merge],
    )


def dense(draw: Any, rows: int, bias: bool = False) -> dict[str, Array]:
    return {"kernel": draw.normal(size=(rows, HIDDEN))} | ({"bias": draw.normal(size=HIDDEN)} if bias else {})


def flax_params(kind: str, seed: int = 0) -> dict[str, dict[str, Array]]:
    """As flax.linen makes them: which of them have biases differs from cell to cell."""
    draw = np.random.default_rng(seed)
    if kind == "SimpleCell":
        return {"i": dense(draw, INPUT, True), "h": dense(draw, HIDDEN)}
    if kind == "LSTMCell":
        return {f"i{g}": dense(draw, INPUT) for g in "ifgo"} | {f"h{g}": dense(draw, HIDDEN, True) for g in "ifgo"}
    if kind == "GRUCell":
        own = {f"i{g}": dense(draw, INPUT, True) for g in "rzn"}
        return own | {f"h{g}": dense(draw, HIDDEN, g == "n") for g in "rzn"}
    return {
        "if": dense(draw, INPUT, True),
        "in": dense(draw, INPUT, True),
        "hf": dense(draw, HIDDEN),
        "hn": dense(draw, HIDDEN, True),
    }


def flax_rnn(kind: str, params: dict[str, dict[str, Array]], x: Array) -> Array:
    """As the documentation of flax.linen has it."""

    def d(name: str, v: Array) -> Array:
        return v @ params[name]["kernel"] + params[name].get("bias", 0)

    h = c = np.zeros((len(x), HIDDEN))
    outputs = []
    for t in range(x.shape[1]):
        v = x[:, t]
        if kind == "SimpleCell":
            h = np.tanh(d("i", v) + d("h", h))
        elif kind == "LSTMCell":
            i, f, o = (sigmoid(d(f"i{g}", v) + d(f"h{g}", h)) for g in "ifo")
            c = f * c + i * np.tanh(d("ig", v) + d("hg", h))
            h = o * np.tanh(c)
        elif kind == "GRUCell":
            r, z = (sigmoid(d(f"i{g}", v) + d(f"h{g}", h)) for g in "rz")
            h = (1 - z) * np.tanh(d("in", v) + r * d("hn", h)) + z * h
        else:
            f = sigmoid(d("if", v) + d("hf", h))
            h = (1 - f) * np.tanh(d("in", v) + f * d("hn", h)) + f * h
        outputs.append(h)
    return np.stack(outputs, 1)


@pytest.mark.parametrize("kind", FLAX)
def test_equations_of_flax(kind: str) -> None:
    params, other, x = flax_params(kind), flax_params(kind, 1), inputs()
    close(from_flax(params, kind), x, flax_rnn(kind, params, x))
    back = flax_rnn(kind, other, x[:, ::-1])[:, ::-1]
    close(from_flax(params, kind, other), x, np.concatenate([flax_rnn(kind, params, x), back], -1))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.float32, torch.float32), (np.float64, torch.float64), (ml_dtypes.bfloat16, torch.bfloat16)]
)
def test_types_stay_and_no_number_is_drawn(dtype: Any, kind: torch.dtype, bias: bool) -> None:
    """Also where a framework keeps no bias, and zeros stand in its place."""
    lstm, params = fake("LSTM", use_bias=bias), flax_params("LSTMCell")
    lstm.weights = [weight.astype(dtype) for weight in lstm.weights]
    params = {name: {key: value.astype(dtype) for key, value in each.items()} for name, each in params.items()}
    before = torch.get_rng_state()
    for layer in (from_keras(lstm), from_flax(params, "LSTMCell")):
        assert {p.dtype for p in layer.parameters()} == {kind}
    assert torch.equal(torch.get_rng_state(), before)


def test_directions_that_differ() -> None:
    """In a bias, and in what a configuration leaves out."""
    x = inputs()
    for seeds in ((True, False), (False, True)):
        a, b = (fake("LSTM", seed, use_bias=bias) for seed, bias in enumerate(seeds))
        want = np.concatenate([a(x), b(x[:, ::-1])[:, ::-1]], -1)
        close(from_keras(both_of(a, b)), x, want)  # without merge_mode, which is then concat
    own = {"activation": "relu", "recurrent_activation": "hard_sigmoid"}
    a, b = fake("LSTM", 1, **own), fake("LSTM", 2, **own)
    close(from_keras(both_of(a, b)), x * 0.5, np.concatenate([a(x * 0.5), b(x[:, ::-1] * 0.5)[:, ::-1]], -1))
    del a.config["use_bias"]
    close(from_keras(a), x * 0.5, a(x * 0.5))


def test_a_layer_can_be_pickled() -> None:
    layer, x = from_keras(fake("GRU", activation="relu")), torch.from_numpy(inputs())
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x)[0], layer(x)[0])


# The frameworks themselves


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras", reason="Keras is not installed; the environment of `make bench-all` has it")


@pytest.mark.parametrize(("kind", "config"), CASES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_keras_itself(keras: Any, kind: str, config: dict[str, Any], bidirectional: bool) -> None:
    x = inputs().astype(np.float32)
    layer = getattr(keras.layers, kind)(HIDDEN, return_sequences=True, **config)
    if bidirectional:
        layer = keras.layers.Bidirectional(layer, merge_mode="sum")
    layer(x)
    draw = np.random.default_rng(3)  # Keras begins with biases of zero
    layer.set_weights([draw.normal(size=w.shape, scale=0.5) for w in layer.get_weights()])
    close(from_keras(layer), x, np.asarray(layer(x)), 2e-5)


@pytest.mark.parametrize("kind", [*FLAX, "OptimizedLSTMCell"])
def test_flax_itself(kind: str) -> None:
    linen = pytest.importorskip(
        "flax.linen", reason="Flax is not installed; the environment of `make bench-all` has it"
    )
    jax: Any = pytest.importorskip("jax")

    x = inputs().astype(np.float32)
    rnn = linen.RNN(getattr(linen, kind)(HIDDEN))
    variables = rnn.init(jax.random.key(0), x)
    draw = np.random.default_rng(3)
    variables = jax.tree.map(lambda w: draw.normal(size=w.shape, scale=0.5).astype(np.float32), variables)
    (params,) = variables["params"].values()
    close(from_flax(params, kind.removeprefix("Optimized")), x, np.asarray(rnn.apply(variables, x)), 2e-5)


# What is refused


def damaged(kind: str = "LSTM", **changes: Any) -> Any:
    layer = fake(kind)
    for name, value in changes.items():
        setattr(layer, name, value)
    return layer


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "another layer": (lambda: from_keras(type("Conv1D", (Fake,), {})("LSTM")), "is a Conv1D, but SimpleRNN, LSTM, GRU"),
    "another activation": (lambda: from_keras(fake("GRU", activation="gelu")), "has activation 'gelu', but tanh, sigmoid"),
    "a function": (lambda: from_keras(fake("GRU", activation=np.tanh)), "has activation <ufunc 'tanh'>"),
    "backwards alone": (lambda: from_keras(fake("LSTM", go_backwards=True)), r"go_backwards=True; .* x.flip\(1\)"),
    "backwards both": (lambda: from_keras(both_of(fake("LSTM", go_backwards=True), fake("LSTM"))), "has a forward layer with go_backwards=True; make it without"),
    "not built": (lambda: from_keras(damaged(weights=[])), "has 0 arrays of weights, but 3 are expected; call it once"),
    "kernels": (lambda: from_keras(damaged(weights=[np.zeros((3, 20)), np.zeros((4, 16)), np.zeros(20)])), r"\(3, 20\) and \(4, 16\), but \(3, 16\)"),
    "a bias": (lambda: from_keras(damaged(weights=[np.zeros((3, 20)), np.zeros((5, 20)), np.zeros(15)])), r"bias of the shape \(15,\), but \(20,\)"),
    "merging": (lambda: from_keras(both_of(0, 0, merge_mode="mul")), "merge_mode 'mul', but concat, sum, ave"),
    "too many arrays": (lambda: from_keras(damaged(weights=[*fake("LSTM").weights, np.zeros(20)])), "has 4 arrays of weights, but 3"),
    "a bias that it should not have": (lambda: from_keras(damaged(config={"use_bias": False})), "has 3 arrays of weights, but 2"),
    "the recurrent kernel": (lambda: from_keras(damaged(weights=[np.zeros((3, 20)), np.zeros((5, 15)), np.zeros(20)])), r"\(3, 20\) and \(5, 15\), but \(3, 20\) and \(5, 20\)"),
    "a bias of two rows": (lambda: from_keras(damaged(weights=[np.zeros((3, 20)), np.zeros((5, 20)), np.zeros((2, 20))])), r"bias of the shape \(2, 20\), but \(20,\)"),
    "a bias of one row": (lambda: from_keras(damaged("GRU", weights=[np.zeros((3, 15)), np.zeros((5, 15)), np.zeros((1, 30))])), r"bias of the shape \(1, 30\), but \(2, 15\)"),
    "another activation of the gates": (lambda: from_keras(fake("GRU", recurrent_activation="gelu")), "has recurrent_activation 'gelu', but tanh"),
    "a serialized activation": (lambda: from_keras(fake("GRU", activation={"class_name": "Mine"})), "has activation {'class_name'"),
    "two kinds": (lambda: from_keras(both_of(fake("LSTM"), fake("GRU"))), "two directions of different kinds, lstm and gru; convert each"),
    "two activations": (lambda: from_keras(both_of(fake("GRU", activation="relu"), fake("GRU", activation="softsign"))), "two directions of different kinds"),
    "a bad direction": (lambda: from_keras(both_of(fake("GRU"), fake("GRU", activation="gelu"))), "the backward layer of SimpleNamespace 'both' has activation"),
    "another cell of Flax": (lambda: from_flax({}, "ConvLSTMCell"), "kind is 'ConvLSTMCell', but SimpleCell, LSTMCell"),
    "the tree above": (lambda: from_flax({"cell": flax_params("GRUCell")}, "GRUCell"), "have no ir.kernel, but only cell"),
    "a missing gate": (lambda: from_flax({k: v for k, v in flax_params("LSTMCell").items() if k != "ho"}, "LSTMCell"), "have no ho.kernel"),
    "shapes": (lambda: from_flax(flax_params("SimpleCell") | {"h": {"kernel": np.zeros((4, 4))}}, "SimpleCell"), r"hh of gate h have the shape \(4, 4\), but \(5, 5\)"),
    "inputs of another size": (lambda: from_flax(flax_params("SimpleCell"), "SimpleCell", flax_params("SimpleCell") | {"i": {"kernel": np.zeros((4, 5))}}), r"ih of gate h have the shape \(5, 4\), but \(5, 3\)"),
    "a bias of Flax": (lambda: from_flax(flax_params("SimpleCell") | {"i": {"kernel": np.zeros((3, 5)), "bias": np.zeros(4)}}, "SimpleCell"), r"b_ih of gate h have the shape \(4,\), but \(5,\)"),
    "an array for a layer": (lambda: from_flax(flax_params("SimpleCell") | {"h": np.zeros((5, 5))}, "SimpleCell"), "have no h.kernel, but only i, h"),
    "a layer without a kernel": (lambda: from_flax(flax_params("SimpleCell") | {"h": {"bias": np.zeros(5)}}, "SimpleCell"), "have no h.kernel"),
    "nothing": (lambda: from_flax({}, "SimpleCell"), "have no i.kernel, but only nothing; give those"),
    "nothing for the other direction": (lambda: from_flax(flax_params("SimpleCell"), "SimpleCell", {}), "have no i.kernel, but only nothing"),
    "names that are numbers": (lambda: from_flax(dict[Any, Any]({0: 1}), "SimpleCell"), "but only 0; give"),
    "an array of three axes": (lambda: from_flax(flax_params("SimpleCell") | {"h": {"kernel": np.zeros((5, 5, 1))}}, "SimpleCell"), r"h.kernel has the shape \(5, 5, 1\)"),
    "an unknown kind": (lambda: from_flax({}, "Cell"), "kind is 'Cell'"),
    "no matrix": (lambda: from_flax(flax_params("SimpleCell") | {"h": {"kernel": np.zeros(4)}}, "SimpleCell"), r"h.kernel has the shape \(4,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    make, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        make()


def test_every_activation_is_tried() -> None:
    assert FUNCTIONS.keys() == ACTIVATIONS.keys()
    v = np.linspace(-4, 4, 101)
    for name, function in ACTIVATIONS.items():
        np.testing.assert_allclose(function(torch.from_numpy(v)).numpy(), FUNCTIONS[name](v), rtol=1e-12, atol=1e-12)
