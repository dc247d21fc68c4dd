"""A Scan that elman wrote comes back as its cell with its weights, or is refused where it is no longer what elman wrote."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn

import elman.onnx
from cases import recurrent
from elman import Cell, Recurrent, State, cells
from elman.errors import InputError
from elman.onnx.activations import Problem
from elman.onnx.loading import load
from elman.onnx.node import Reverse
from elman.onnx.proof import flat
from elman.onnx.written import CHANGED, KEY, cell_of, note
from test_onnx_export import FREE, OWN

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")


def logarithms(x: Any, R: Any, s: Any, p: Any) -> State:
    """What the others lack: log1p, numbers on both sides, comparisons, means, two vectors with one operand, a product used twice."""
    u = torch.log1p(abs(R.a @ s.h)) + p.u * s.m + p.v * s.m
    b = torch.sigmoid(x.b + R.b @ s.h - 0.5 * s.h)
    m = torch.where(s.m < 0.25, 0.75 * b, 1 / (2 + abs(u))) - 0.1 * u.sum(-1, keepdim=True)
    return State(h=torch.tanh(u - R.c @ (b * s.h)) * b - s.m.mean(-1, keepdim=True), m=m)


OTHER = Cell(logarithms, gates=("c", "b", "a"), states=("h", "m"), vectors=("v", "u"), name="logarithms")


class Two(nn.Module):
    """Layers that read the same x, with lengths and resets."""

    def __init__(self, *layers: Recurrent) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, lengths: Tensor, reset: Tensor) -> list[Tensor]:
        return [layer(x, lengths=lengths, reset=reset)[0] for layer in self.layers]


def scans(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Scan"]


def body(model: ModelProto) -> Any:
    return next(each.g for each in scans(model)[0].attribute if each.name == "body")


def check(loaded: Recurrent, layer: Recurrent, x: Tensor) -> None:
    """The same weights, the same results and gradients."""
    assert loaded.cell.name == layer.cell.name
    for (name, mine), (other, exact) in zip(loaded.named_parameters(), layer.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(mine, exact), name
    lengths = torch.tensor([len(x), 0, 2])
    for mine, exact in zip(flat(loaded(x, lengths=lengths)), flat(layer(x, lengths=lengths)), strict=True):
        assert torch.allclose(mine, exact, rtol=1e-5, atol=1e-6)
        grads = [
            torch.autograd.grad(v.sum(), list(of.parameters()), retain_graph=True, allow_unused=True)
            for v, of in ((mine, loaded), (exact, layer))
        ]
        for one, two in zip(*grads, strict=True):
            assert (one is None) == (two is None)
            assert one is None or torch.allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layer_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    """Through plain torch.onnx.export, in one model: cells of one's own, projections, and in float64 the built-in cells."""
    layers = [
        recurrent(OWN[0], 4, 6, dtype=dtype, bias=False),
        recurrent(OTHER, 4, 6, dtype=dtype),
        Reverse(OWN[0], 4, 6, dtype=dtype),
    ]
    if dtype == torch.float32:  # ONNX Runtime has no erf in float64
        layers += [
            recurrent(OWN[1], 4, 6, dtype=dtype),
            recurrent(OWN[2], 4, 6, dtype=dtype),
            recurrent(cells.projected_lstm, 4, 6, dtype=dtype, proj_size=3),
        ]
    else:
        built_in = cells.lstm, cells.coupled_peephole_lstm, cells.gru, cells.gru_before, cells.rnn_relu
        layers += [recurrent(cell, 4, 6, dtype=dtype, bias=k > 0) for k, cell in enumerate(built_in)]
    x, reset = torch.randn(5, 3, 4, dtype=dtype), torch.rand(5, 3) < 0.4
    program = torch.onnx.export(
        Two(*layers).eval(), (x, torch.tensor([5, 0, 2]), reset), dynamo=True, verbose=False,
        dynamic_shapes=({0: FREE, 1: FREE}, {0: FREE}, {0: FREE, 1: FREE}),
    )  # fmt: skip
    assert program is not None
    program.save(tmp_path / "plain.onnx")
    found = list(load(tmp_path / "plain.onnx").values())
    assert len(found) == len(layers)
    for loaded, layer in zip(found, layers, strict=True):
        check(loaded, layer, x)
        assert type(loaded) is type(layer)
        assert (loaded.cell is layer.cell) == (layer.cell in cells.BUILT_IN.values())


def test_both_directions_and_layers(tmp_path: Path) -> None:
    layer = recurrent(OTHER, 3, 5, dtype=torch.float32, num_layers=2, bidirectional=True)
    found = load(elman.onnx.export(layer, tmp_path / "layer.onnx").path)
    assert [type(each) for each in found.values()] == [Recurrent, Reverse] * 2
    x = torch.randn(6, 2, 3)
    with torch.no_grad():
        want, _ = layer(x)
        for k in (0, 2):
            forward, reverse = list(found.values())[k : k + 2]
            x = torch.cat([forward(x)[0], reverse(x)[0]], -1)
    assert torch.allclose(x, want, atol=1e-6)
    again = copy.deepcopy(found["recurrent_0"])
    assert pickle.loads(pickle.dumps(again.cell)).gates == OTHER.gates
    assert "engine cpu" in " ".join(str(elman.describe(again, torch.randn(6, 2, 3))).split())  # its step can be traced


def vectors_alone(x: Any, R: Any, s: Any, p: Any) -> State:
    """It computes values from vectors alone, which an exporter folds."""
    d, e = torch.sigmoid(p.d), torch.exp(-abs(p.e))
    a = torch.where(p.d < p.e, 1 - p.e, -p.d) * p.d.mean(-1, keepdim=True)
    return State(h=d * s.h + (1 - d) * torch.tanh(x.n + R.n @ (a * s.h) + e))


def test_what_is_computed_from_vectors_alone(tmp_path: Path) -> None:
    cell = Cell(vectors_alone, gates=("n",), vectors=("e", "d"), name="vectors_alone")
    layer, x = recurrent(cell, 3, 5, dtype=torch.float32), torch.randn(6, 3, 3)
    elman.onnx.export(layer, tmp_path / "layer.onnx")
    program = torch.onnx.export(nn.Sequential(layer).eval(), (x,), dynamo=True, verbose=False, optimize=False)
    assert program is not None
    program.save(tmp_path / "plain.onnx")
    for name in ("layer.onnx", "plain.onnx"):
        (loaded,) = load(tmp_path / name).values()
        check(loaded, layer, x)


def changed_operator(model: ModelProto) -> None:
    next(node for node in body(model).node if node.op_type == "Sigmoid").op_type = "Tanh"


def constants(model: ModelProto) -> list[Any]:
    graph = body(model)
    made = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
    return [*graph.initializer, *model.graph.initializer, *made]


def changed_number(model: ModelProto) -> None:
    for tensor in constants(model):
        if not tensor.dims and tensor.data_type == 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(0.3, np.float32), tensor.name))


def changed_axis(model: ModelProto) -> None:
    for tensor in constants(model):
        if onnx.numpy_helper.to_array(tensor).tolist() == [-1]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([0]), tensor.name))


def changed_order(model: ModelProto) -> None:
    node = next(node for node in body(model).node if node.op_type == "Sub")
    node.input[0], node.input[1] = node.input[1], node.input[0]


def swapped_states(model: ModelProto) -> None:
    outputs = body(model).output
    first, second = outputs[0].name, outputs[1].name
    outputs[0].name, outputs[1].name = second, first


def noted(**changes: Any) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        for each in scans(model)[0].metadata_props:
            if each.key == KEY:
                each.value = json.dumps(json.loads(each.value) | changes)

    return change


def no_json(model: ModelProto) -> None:
    scans(model)[0].metadata_props[0].value = "[" * 100_000


def variable_weights(model: ModelProto) -> None:
    gemm = next(node for node in body(model).node if node.op_type == "Gemm")
    gemm.input[1] = "x"


DAMAGE = {
    "another operator": (changed_operator, "not what elman writes"),
    "another number": (changed_number, "not what elman writes"),
    "another axis": (changed_axis, "not what elman writes"),
    "another order": (changed_order, "not what elman writes"),
    "swapped states": (swapped_states, "not what elman writes"),
    "no JSON": (no_json, "makes no sense"),
    "a missing vector": (noted(vectors=["u"]), "makes no sense|does not declare"),
    "an unused gate": (noted(gates=["c", "b", "a", "z"]), "makes no sense"),
    "no nodes": (noted(nodes=[]), "makes no sense"),
    "a loop": (noted(nodes=[["neg", [0], "", 0.0]]), "makes no sense"),
    "names that are none": (noted(states=["h", "a b"]), "makes no sense"),
    "weights that are none": (variable_weights, "weights are not constant"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layer = recurrent(OTHER, 3, 5, dtype=torch.float32)
    return elman.onnx.export(layer, tmp_path_factory.mktemp("scans") / "layer.onnx").path


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_scan_that_was_changed(written: Path, tmp_path: Path, damage: str) -> None:
    change, said = DAMAGE[damage]
    model = onnx.load(written)
    change(model)
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(InputError, match=rf"the node 'recurrent_0' \(Scan\) cannot be loaded: .*({said})"):
        load(tmp_path / "changed.onnx")


def refused(model: ModelProto, path: Path) -> None:
    onnx.save(model, path)
    with pytest.raises(InputError, match=CHANGED):
        load(path)


def test_a_node_without_its_inputs(written: Path, tmp_path: Path) -> None:
    whole, kinds = onnx.load(written), set[str]()
    for k, node in enumerate(body(whole).node):
        for count in range(len(node.input)):
            model = copy.deepcopy(whole)
            del body(model).node[k].input[count:]
            kinds.add(node.op_type)
            refused(model, tmp_path / "changed.onnx")
    assert kinds >= {"Split", "Gemm", "Where", "Less", "Log", "Add", "ReduceMean", "ReduceSum"}
    for node in whole.graph.node:
        if node.op_type == "Reshape":
            del node.input[:]
    refused(whole, tmp_path / "changed.onnx")


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("Gemm", "alpha", 2.0),
        ("Gemm", "beta", 0.5),
        ("Gemm", "transA", 1),
        ("Gemm", "transB", 0),
        ("Split", "axis", 0),
        ("ReduceMean", "keepdims", 0),
        ("ReduceSum", "noop_with_empty_axes", 1),
    ],
)
def test_a_node_with_another_attribute(written: Path, tmp_path: Path, kind: str, name: str, value: float) -> None:
    for where in (
        ("body", "graph") if kind == "Gemm" else ("body",)
    ):  # the product with the input is outside of the Scan
        model = onnx.load(written)
        node = next(each for each in (body(model) if where == "body" else model.graph).node if each.op_type == kind)
        for each in [each for each in node.attribute if each.name == name]:
            node.attribute.remove(each)
        node.attribute.append(onnx.helper.make_attribute(name, value))
        refused(model, tmp_path / "changed.onnx")


def test_a_comparison_that_is_no_condition(written: Path, tmp_path: Path) -> None:
    model = onnx.load(written)
    nodes = {node.op_type: node for node in body(model).node}
    nodes["Mul"].input[0] = nodes["Less"].output[0]
    refused(model, tmp_path / "changed.onnx")


def test_a_note_that_was_damaged() -> None:
    """It is read as a cell, or refused: nothing else happens, whatever stands in it."""
    good, ends = note(OTHER), set[str]()
    for seed in range(300):
        draw, letters = random.Random(seed), list(good)
        for _ in range(draw.choice((1, 1, 3))):
            letters[draw.randrange(len(letters))] = draw.choice('0123456789"[]{},:.-eabcmx ')
        try:
            cell_of("".join(letters))
            ends.add("read")
        except Problem:
            ends.add("refused")
    assert ends == {"read", "refused"}


def test_scans_of_others_and_integers_are_no_layers(written: Path, tmp_path: Path) -> None:
    model = onnx.load(written)
    del scans(model)[0].metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="has no recurrent node"):
        load(tmp_path / "other.onnx")
    path = elman.onnx.export(recurrent(OWN[0], 3, 5, dtype=torch.float32), tmp_path / "int8.onnx", int8=True).path
    with pytest.raises(InputError, match="not what elman writes"):
        load(path)
