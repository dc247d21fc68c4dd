"""ONNX Runtime's kernels as referee: a one-node model of each ONNX operator, filled by `onnx_nodes.to_onnx`."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, sigmoid, tanh
from torch.testing import assert_close

from cases import CELLS, inputs, layer, recurrent, run
from elman import Cell, Recurrent, State, cells
from elman.layout import Onnx, onnx_form
from onnx_nodes import to_onnx

STEPS, BATCH, INPUT, HIDDEN = 7, 3, 5, 4
Packed = dict[str, NDArray[np.float32]]

directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
NAMES = [name for name in CELLS if name != "projected_lstm"]  # which ONNX has no operator for
names = pytest.mark.parametrize("name", NAMES)


def float_layer(name: str, bidirectional: bool, bias: bool = True) -> Recurrent:
    return layer(name, INPUT, HIDDEN, dtype=torch.float32, bidirectional=bidirectional, bias=bias)


def form_of(cell: Cell) -> Onnx:
    form = onnx_form(cell)
    assert form is not None
    return form


def pack(of: Recurrent) -> Packed:
    """W, R, B and P of every direction, stacked."""
    each = [to_onnx(of.cell, of.weights(0, reverse)) for reverse in (False, True)[: of.num_directions]]
    return {key: torch.stack([one[key] for one in each]).detach().numpy() for key in each[0]}


def runtime(of: Recurrent, packed: Packed, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Output and final states as ONNX Runtime computes them, in elman's shapes."""
    form = form_of(of.cell)
    feed = {"X": x.numpy(), "initial_h": states[0].numpy()} | packed
    if len(states) > 1:
        feed["initial_c"] = states[1].numpy()
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    attributes: dict[str, Any] = dict(form.attributes)
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * of.num_directions
    node = helper.make_node(
        form.operator,
        inputs=[name if name in feed else "" for name in order[: 8 if form.operator == "LSTM" else 6]],
        outputs=["Y", "Y_h", "Y_c"][: 1 + len(states)],
        hidden_size=HIDDEN,
        direction="bidirectional" if of.bidirectional else "forward",
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feed.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * (4 if name == "Y" else 3))
            for name in node.output
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y, *final = [torch.from_numpy(np.asarray(value)) for value in session.run(None, feed)]
    return (y.permute(0, 2, 1, 3).flatten(2), *final)  # (T, D, B, H) -> (T, B, D*H)


def mine_and_theirs(of: Recurrent, packed: Packed) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    x, states = inputs(of, STEPS, BATCH)
    with torch.no_grad():
        return run(of, x, states), runtime(of, packed, x, states)


@directions
@names
def test_same_as_onnx_runtime(name: str, bidirectional: bool) -> None:
    of = float_layer(name, bidirectional)
    mine, theirs = mine_and_theirs(of, pack(of))
    assert_close(mine, theirs, rtol=0, atol=2e-6)


@names
def test_without_biases(name: str) -> None:
    of = float_layer(name, bidirectional=True, bias=False)
    packed = pack(of)
    assert "B" not in packed
    mine, theirs = mine_and_theirs(of, packed)
    assert_close(mine, theirs, rtol=0, atol=2e-6)


def swaps() -> list[tuple[str, str, int, int]]:
    """Every pair of row blocks of every tensor that ONNX takes: W and R, both halves of B, P."""
    found = []
    for name in NAMES:
        form = form_of(cells.by_name(name))
        count = len(form.rows)
        for key in ("W", "R", "B"):
            found += [(name, key, a, b) for a, b in combinations(range(count), 2)]
        found += [(name, "B", count + a, count + b) for a, b in combinations(range(count), 2)]
        found += [(name, "P", a, b) for a, b in combinations(range(len(form.peepholes)), 2)]
    return found


@pytest.mark.parametrize(("name", "key", "a", "b"), swaps())
def test_a_swapped_block_of_rows_is_noticed(name: str, key: str, a: int, b: int) -> None:
    of = float_layer(name, bidirectional=True)
    packed = pack(of)
    blocks = packed[key].reshape(2, -1, HIDDEN, *packed[key].shape[2:])
    blocks[:, [a, b]] = blocks[:, [b, a]]
    mine, theirs = mine_and_theirs(of, packed | {key: blocks.reshape(packed[key].shape)})
    with pytest.raises(AssertionError):
        assert_close(mine, theirs, rtol=0, atol=1e-2)


@pytest.mark.parametrize("key", ["W", "R", "B", "P"])
def test_two_swapped_rows_are_noticed(key: str) -> None:
    of = float_layer("peephole_lstm", bidirectional=False)
    packed = pack(of)
    packed[key][:, [0, 1]] = packed[key][:, [1, 0]]
    mine, theirs = mine_and_theirs(of, packed)
    with pytest.raises(AssertionError):
        assert_close(mine, theirs, rtol=0, atol=1e-2)


@names
def test_what_onnx_ignores_is_zero_and_what_it_reads_is_not(name: str) -> None:
    packed = pack(float_layer(name, bidirectional=True))
    form = form_of(cells.by_name(name))
    rows = {"W": form.rows, "R": form.rows, "B": form.rows * 2, "P": form.peepholes}
    assert set(packed) == {key for key, names in rows.items() if names}
    for key, value in packed.items():
        blocks = value.reshape(2, len(rows[key]), -1)
        assert [bool(blocks[:, k].any()) for k in range(len(rows[key]))] == [row != "" for row in rows[key]]


@pytest.mark.parametrize("name", ["coupled_lstm", "coupled_peephole_lstm"])
def test_what_is_zero_is_ignored(name: str) -> None:
    of = float_layer(name, bidirectional=True)
    form, packed = form_of(of.cell), pack(of)
    for key, rows in {"W": form.rows, "R": form.rows, "B": form.rows * 2, "P": form.peepholes}.items():
        for k, row in enumerate(rows):
            if not row:
                packed[key].reshape(2, len(rows), -1)[:, k] = 3.0
    mine, theirs = mine_and_theirs(of, packed)
    assert_close(mine, theirs, rtol=0, atol=2e-6)


def test_a_cell_without_a_matrix_is_refused() -> None:
    of = float_layer("lstm", bidirectional=False)
    with pytest.raises(ValueError, match="'lstm' lacks a weight matrix"):
        to_onnx(of.cell, of.weights(0)._replace(hh=None))


def in_another_order(x, R, s, p):
    """The peephole LSTM, its lines and terms in an order of their own."""
    candidate = tanh(R.g @ s.h + x.g)
    keep = sigmoid(p.f * s.c + (x.f + R.f @ s.h))
    c = candidate * sigmoid(x.i + R.i @ s.h + s.c * p.i) + s.c * keep
    return State(h=tanh(c) * sigmoid(x.o + R.o @ s.h + p.o * c), c=c)


def test_a_users_cell_with_known_equations_is_found_by_them() -> None:
    """Its gates and peepholes stand in an order of its own, and it may have any name."""
    own = Cell(in_another_order, gates=("o", "g", "f", "i"), states=("h", "c"), vectors=("o", "i", "f"), name="rnn")
    of = recurrent(own, INPUT, HIDDEN, dtype=torch.float32, bidirectional=True)
    assert form_of(own).operator == "LSTM"
    mine, theirs = mine_and_theirs(of, pack(of))
    assert_close(mine, theirs, rtol=0, atol=2e-6)


def test_a_users_cell_is_not_known_by_its_name() -> None:
    def lstm(x, R, s):
        i, f, o = sigmoid(x.i + R.i @ s.h), sigmoid(x.f + R.f @ s.h), sigmoid(x.o + R.o @ s.h)
        c = f * s.c + i * tanh(x.g + R.g @ s.h)
        return State(h=o * c, c=c)  # without the tanh

    of = recurrent(Cell(lstm, gates=("i", "f", "g", "o"), states=("h", "c")), INPUT, HIDDEN)
    assert onnx_form(of.cell) is None
    with pytest.raises(ValueError, match="no operator for the equations of the cell 'lstm'"):
        to_onnx(of.cell, of.weights(0))


def test_a_users_cell_that_is_no_graph_has_no_form() -> None:
    assert onnx_form(Cell(lambda x, R, s: State(h=torch.sin(x.h + R.h @ s.h)), gates=("h",), name="sin")) is None
