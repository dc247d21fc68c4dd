"""Recurrent nodes of ONNX to test with: random ones, the files that hold them, and what they compute, in float64; and elman's
weights as such nodes want them.

`exact` is written from ONNX's equations alone, one row of the batch after the other. It shares nothing with elman.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from elman import Cell, Recurrent
from elman.layout import Weights, onnx_form

Array = NDArray[Any]
ORDER = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
WEIGHTS = ("W", "R", "B", "P")
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
NUMBERS = {"Affine": 2, "LeakyRelu": 1, "ScaledTanh": 2, "HardSigmoid": 2, "Elu": 1}
NAMES = ("Tanh", "Relu", "Sigmoid", "Softsign", "Softplus", *NUMBERS)
DEFAULTS = {"LeakyRelu": (0.01,), "HardSigmoid": (0.2, 0.5), "Elu": (1.0,)}


class Case(NamedTuple):
    operator: str
    attributes: dict[str, Any]
    values: dict[str, Array]  # the inputs by name, weights included

    def node(self, name: str = "cell") -> NodeProto:
        names = [key if key in self.values else "" for key in ORDER[: 8 if self.operator == "LSTM" else 6]]
        while not names[-1]:
            names.pop()
        outputs = ["Y", "Y_h", "Y_c"][: 3 if self.operator == "LSTM" else 2]
        return helper.make_node(self.operator, names, outputs, name, **self.attributes)

    @property
    def directions(self) -> int:
        return self.values["W"].shape[0]

    @property
    def feed(self) -> dict[str, Array]:
        return {name: value for name, value in self.values.items() if name not in WEIGHTS}


def case(
    operator: str,
    *optional: str,
    sizes: tuple[int, int, int, int] = (5, 3, 4, 3),
    seed: int = 0,
    scale: float = 0.7,
    **attributes: Any,
) -> Case:
    """A node with random weights. optional: the inputs that it has besides X, W and R. sizes: T, B, I and H."""
    draw = np.random.default_rng(seed)
    T, B, width, H = sizes
    D, n = 2 if attributes.get("direction") == "bidirectional" else 1, GATES[operator] * H
    shapes = {"X": (T, B, width), "W": (D, n, width), "R": (D, n, H), "B": (D, 2 * n), "P": (D, 3 * H)}
    shapes |= {"initial_h": (D, B, H), "initial_c": (D, B, H)}
    values = {name: (draw.standard_normal(shape) * scale).astype("float32") for name, shape in shapes.items()}
    values["X"] = draw.standard_normal((T, B, width)).astype("float32")
    values["sequence_lens"] = draw.integers(1, T + 1, B).astype("int32")
    kept = {name: value for name, value in values.items() if name in ("X", "W", "R", *optional)}
    return Case(operator, attributes, kept)


def random_case(seed: int) -> Case:
    """A node with any attributes and optional inputs that ONNX Runtime supports."""
    draw = np.random.default_rng(seed)

    def often(share: float) -> bool:
        return bool(draw.random() < share)

    operator = str(draw.choice(list(GATES)))
    extra = ["initial_c", "P"] if operator == "LSTM" else []
    optional = [name for name in ("B", "sequence_lens", "initial_h", *extra) if often(0.5)]
    T, B, width, H = (int(draw.integers(1, most)) for most in (8, 5, 6, 7))
    direction = str(draw.choice(["forward", "reverse", "bidirectional"]))
    attributes: dict[str, Any] = {}
    D = 2 if direction == "bidirectional" else 1
    if operator == "LSTM" and often(0.4):
        attributes["input_forget"] = int(often(0.8))
    if operator == "GRU" and often(0.7):
        attributes["linear_before_reset"] = int(often(0.7))
    if often(0.3):
        attributes["clip"] = round(draw.uniform(0.3, 2), 2)
    if often(0.6):
        count = len(FUNCTIONS[operator])
        names = [str(draw.choice(NAMES)) for _ in range(count * D)]
        if D == 2 and often(0.4):
            names[count:] = names[:count]
        takers = [name for name in names if name in NUMBERS]
        alphas = [round(draw.uniform(0.2, 0.9), 2) for _ in takers]
        betas = [round(draw.uniform(0.2, 0.9), 2) for name in takers if NUMBERS[name] == 2]
        if often(0.3) and not {"Affine", "ScaledTanh"} & set(names):  # the last ones have their defaults
            alphas, betas = alphas[:-1], betas[:-1]
        attributes["activations"] = names
        attributes |= {"activation_alpha": alphas} if alphas else {}
        attributes |= {"activation_beta": betas} if betas else {}
    made = case(
        operator, *optional, sizes=(T, B, width, H), seed=seed, scale=draw.uniform(0.3, 1.2), direction=direction
    )
    return Case(operator, made.attributes | attributes, made.values)


def activations(case: Case) -> list[tuple[str, float, float]]:
    """The name, alpha and beta of every activation, in order."""
    names = case.attributes.get("activations", FUNCTIONS[case.operator] * case.directions)
    alphas, betas = (iter(case.attributes.get(f"activation_{kind}", ())) for kind in ("alpha", "beta"))
    found = []
    for name in names:
        name = next(known for known in NAMES if known.lower() == name.lower())
        default = (*DEFAULTS.get(name, ()), 0.0, 0.0)
        count = NUMBERS.get(name, 0)
        alpha = next(alphas, default[0]) if count else 0.0
        found.append((name, alpha, next(betas, default[1]) if count == 2 else 0.0))
    return found


def apply(activation: tuple[str, float, float], v: Array) -> Array:
    name, a, b = activation
    functions = {
        "Tanh": np.tanh,
        "Relu": lambda v: np.maximum(v, 0),
        "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "Softsign": lambda v: v / (1 + np.abs(v)),
        "Softplus": lambda v: np.logaddexp(v, 0),
        "Affine": lambda v: a * v + b,
        "LeakyRelu": lambda v: np.where(v >= 0, v, a * v),
        "ScaledTanh": lambda v: a * np.tanh(b * v),
        "HardSigmoid": lambda v: np.minimum(np.maximum(a * v + b, 0), 1),
        "Elu": lambda v: np.where(v >= 0, v, a * np.expm1(np.minimum(v, 0))),
    }
    return functions[name](v)


def exact(case: Case) -> list[Array]:
    """Y (T, D, B, H) and the final states (D, B, H), in float64."""
    doubles = {name: np.asarray(value, np.float64) for name, value in case.values.items() if name != "sequence_lens"}
    (T, B, _), H = doubles["X"].shape, doubles["R"].shape[2]
    lengths = case.values.get("sequence_lens", np.full(B, T))
    functions, count = activations(case), len(FUNCTIONS[case.operator])
    y, final_h, final_c = np.zeros((T, case.directions, B, H)), *np.zeros((2, case.directions, B, H))
    for d in range(case.directions):
        back = d == 1 or case.attributes.get("direction") == "reverse"
        own = {name: value[d] for name, value in doubles.items() if name in WEIGHTS}
        for b in range(B):
            h, c = (doubles[k][d, b] if k in doubles else np.zeros(H) for k in ("initial_h", "initial_c"))
            steps = range(lengths[b])
            for t in reversed(steps) if back else steps:
                h, c = one_step(case, own, functions[d * count : (d + 1) * count], doubles["X"][t, b], h, c)
                y[t, d, b] = h
            final_h[d, b], final_c[d, b] = h, c
    return [y, final_h, final_c] if case.operator == "LSTM" else [y, final_h]


def one_step(case: Case, own: dict[str, Array], functions: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """The equations of ONNX's documentation, in its notation."""
    n, clip = GATES[case.operator], case.attributes.get("clip", np.inf)
    W, R = (own[key].reshape(n, len(h), -1) for key in "WR")
    Wb, Rb = own.get("B", np.zeros(2 * n * len(h))).reshape(2, n, len(h))
    P = own.get("P", np.zeros(3 * len(h))).reshape(3, len(h))

    def act(k: int, v: Array) -> Array:
        return apply(functions[k], np.clip(v, -clip, clip))

    def sums(k: int) -> Array:
        return W[k] @ x + R[k] @ h + Wb[k] + Rb[k]

    if case.operator == "RNN":
        return act(0, sums(0)), c
    if case.operator == "GRU":
        z, r = act(0, sums(0)), act(0, sums(1))
        if case.attributes.get("linear_before_reset"):
            n = act(1, W[2] @ x + r * (R[2] @ h + Rb[2]) + Wb[2])
        else:
            n = act(1, W[2] @ x + R[2] @ (r * h) + Rb[2] + Wb[2])
        return (1 - z) * n + z * h, c
    i = act(0, sums(0) + P[0] * c)
    f = 1 - i if case.attributes.get("input_forget") else act(0, sums(2) + P[2] * c)
    c = f * c + i * act(1, sums(3))
    o = act(0, sums(1) + P[1] * c)
    return o * apply(functions[2], c), c


def model_of(case: Case, seed: int | None = None) -> ModelProto:
    """A model of the node. seed: how its weights are stored, and whether it has hidden_size; without, it is plain."""
    draw = np.random.default_rng(seed)
    nodes, initializers = [], []
    for name, value in case.values.items():
        if name in WEIGHTS:
            store = (_plain, *_STORED)[0 if seed is None else draw.integers(len(_STORED) + 1)]
            store(name, value, nodes, initializers)
    feed = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in case.feed.items()
    ]
    kind = helper.np_dtype_to_tensor_dtype(case.values["X"].dtype)
    node = case.node()
    if "hidden_size" not in case.attributes and (seed is None or draw.random() < 0.7):
        node.attribute.append(helper.make_attribute("hidden_size", case.values["R"].shape[-1]))
    outputs = [helper.make_tensor_value_info(name, kind, [None] * (4 if name == "Y" else 3)) for name in node.output]
    graph = helper.make_graph([*nodes, node], "one", feed, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _plain(name: str, value: Array, nodes: list[NodeProto], initializers: list[TensorProto]) -> None:
    initializers.append(numpy_helper.from_array(value, name))


def _constant(name: str, value: Array, nodes: list[NodeProto], initializers: list[TensorProto]) -> None:
    nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))


def _transposed(name: str, value: Array, nodes: list[NodeProto], initializers: list[TensorProto]) -> None:
    order = list(reversed(range(value.ndim)))
    _plain(f"{name}.T", value.transpose(order).copy(), nodes, initializers)
    nodes.append(helper.make_node("Transpose", [f"{name}.T"], [name], perm=order))


def _joined(name: str, value: Array, nodes: list[NodeProto], initializers: list[TensorProto]) -> None:
    for k, part in enumerate(np.array_split(value, 2, axis=1)):
        _constant(f"{name}.{k}", part, nodes, initializers)
    nodes.append(helper.make_node("Concat", [f"{name}.0", f"{name}.1"], [name], axis=1))


def _gathered(name: str, value: Array, nodes: list[NodeProto], initializers: list[TensorProto]) -> None:
    order = np.arange(value.shape[1])[::-1].copy()
    _plain(f"{name}.rows", value[:, order], nodes, initializers)
    _plain(f"{name}.order", order, nodes, initializers)
    nodes.append(helper.make_node("Gather", [f"{name}.rows", f"{name}.order"], [name], axis=1))


def _cast_and_scaled(name: str, value: Array, nodes: list[NodeProto], initializers: list[TensorProto]) -> None:
    _plain(f"{name}.double", value.astype("float64"), nodes, initializers)
    _plain(f"{name}.half", np.float32([0.5]), nodes, initializers)  # pyright: ignore[reportArgumentType]
    nodes.append(helper.make_node("Cast", [f"{name}.double"], [f"{name}.cast"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Mul", [f"{name}.cast", f"{name}.half"], [f"{name}.part"]))
    nodes.append(helper.make_node("Add", [f"{name}.part", f"{name}.part"], [name]))


_STORED = (_constant, _transposed, _joined, _gathered, _cast_and_scaled)


def runtime(case: Case) -> list[Array]:
    """What ONNX Runtime computes. It needs hidden_size, and refuses layout=1 and float64."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model_of(case).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, case.feed)]


def by_layers(layers: dict[str, Recurrent], feed: dict[str, Array]) -> list[Array]:
    """What the layers of one node compute, in the shapes of the node, as the docstring of `load` tells callers."""
    x, lengths = torch.from_numpy(feed["X"]), feed.get("sequence_lens")
    given = {} if lengths is None else {"lengths": torch.from_numpy(lengths).long()}
    ys, ends, first = [], [], 0
    for layer in layers.values():
        rows, states = slice(first, first + layer.num_directions), layer.cell.states
        shape = layer.num_directions, x.shape[0 if layer.batch_first else 1], layer.hidden_size
        hx = [
            torch.from_numpy(feed[name][rows]) if (name := f"initial_{state}") in feed else x.new_zeros(shape)
            for state in states
        ]
        with torch.no_grad():
            y, end = layer(x, hx[0] if len(states) == 1 else tuple(hx), **given)
        ys.append(y.unflatten(-1, (layer.num_directions, -1)))
        ends.append((end,) if len(states) == 1 else end)
        first += layer.num_directions
    final = [torch.cat(of) for of in zip(*ends, strict=True)]
    return [value.numpy() for value in (torch.cat(ys, -2).transpose(1, 2), *final)]


def saved(model: ModelProto, folder: Any, name: str = "model.onnx") -> Any:
    path = folder / name
    onnx.save(model, path)
    return path


def _reorder(blocks: Tensor, have: tuple[str, ...], want: tuple[str, ...]) -> Tensor:
    """Reorders blocks (len(have), ...) to (len(want), ...). In `want`, "-f" stands for minus block f, "" for zeros."""
    rows = {name: blocks[k] for k, name in enumerate(have)}
    zero = torch.zeros_like(blocks[0])
    return torch.stack([zero if not name else -rows[name[1:]] if name[0] == "-" else rows[name] for name in want])


def to_onnx(cell: Cell, weights: Weights) -> dict[str, Tensor]:
    """The weights of one direction as ONNX wants them: W (n*H, I), R (n*H, H), B (2*n*H,), P (3*H,).

    n is the number of gates of ONNX's operator, `len(onnx_form(cell).rows)`. B is left out without biases, P without
    peepholes. Raises ValueError if ONNX has no operator for the cell, or if the layer lacks a matrix that it needs.
    """
    form = onnx_form(cell)
    if form is None:
        raise ValueError(f"ONNX has no operator for the equations of the cell {cell.name!r}")
    if weights.ih is None or weights.hh is None:
        raise ValueError(f"cell {cell.name!r} lacks a weight matrix that ONNX's {form.operator} needs")
    count = len(cell.gates)

    def rows(tensor: Tensor) -> Tensor:
        return _reorder(tensor.unflatten(0, (count, -1)), cell.gates, form.rows).flatten(0, 1)

    packed = {"W": rows(weights.ih), "R": rows(weights.hh)}
    if weights.b_ih is not None and weights.b_hh is not None:
        packed["B"] = torch.cat([rows(weights.b_ih), rows(weights.b_hh)])
    if weights.ch is not None:
        packed["P"] = _reorder(weights.ch, cell.vectors, form.peepholes).flatten()
    return packed
