"""Layers of ONNX files compute what the files' nodes compute. Referees: ONNX Runtime, ONNX's own tests, `exact`."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.backend.test.case.node as node_tests
import pytest
import torch
from numpy.testing import assert_allclose
from onnx import TensorProto, helper
from onnx.backend.test.case.node import gru, lstm, rnn

import elman
from elman import cells
from elman.errors import InputError
from elman.onnx import backend
from elman.onnx.activations import Activation
from elman.onnx.loading import load
from elman.onnx.node import Reverse, unpacked
from onnx_nodes import (
    NUMBERS,
    WEIGHTS,
    Array,
    Case,
    by_layers,
    case,
    exact,
    model_of,
    random_case,
    runtime,
    saved,
    to_onnx,
)

REGISTERED = (gru, lstm, rnn)  # to import these registers their test cases, and no others
directions = pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])


def rms(value: Array) -> float:
    return float(np.sqrt(np.mean(np.square(value, dtype="float64"))))


def judge(mine: list[Array], theirs: list[Array], right: list[Array]) -> None:
    """Mine equal the exact values to 1e-5, or are about as accurate as ONNX Runtime's where rounding errors grow.

    The errors of so few numbers differ by luck: by a factor of 5 in one case of a thousand.
    """
    for each, other, value in zip(mine, theirs, right, strict=True):
        assert each.shape == value.shape
        assert rms(each - value) <= max(1e-5 * rms(value), 8 * rms(other - value) if np.isfinite(other).all() else 0)
        assert not np.isfinite(other).all() or rms(other - value) <= 1e-3 * rms(value)  # they mean the same


def check(of: Case, folder: Path, seed: int | None = None) -> dict[str, Any]:
    layers = load(saved(model_of(of, seed), folder))
    with np.errstate(all="ignore"):
        right = exact(of)
    if max(np.abs(value).max() for value in right) < 1e18:  # else a float32 cannot hold it, or its square
        judge(by_layers(layers, of.feed), runtime(of), right)
    return layers


def compare(folder: Path, seeds: range) -> None:
    for seed in seeds:
        check(random_case(seed), folder, seed)


def test_random_nodes_compute_what_onnx_runtime_computes(tmp_path: Path) -> None:
    with elman.use_engine("reference"):  # other tests run the engine that compiles each cell
        compare(tmp_path, range(60))


@directions
@pytest.mark.parametrize(
    ("operator", "optional", "attributes", "name"),
    [
        ("RNN", ["B"], {}, "rnn"),
        ("RNN", [], {"activations": ["Relu"]}, "rnn_relu"),
        ("GRU", ["B"], {}, "gru_before"),
        ("GRU", ["B"], {"linear_before_reset": 1}, "gru"),
        ("LSTM", ["B"], {"clip": np.inf}, "lstm"),
        ("LSTM", ["B", "P"], {"activations": ["sigmoid", "tanh", "tanh"]}, "peephole_lstm"),
        ("LSTM", ["B"], {"input_forget": 1}, "coupled_lstm"),
        ("LSTM", ["P"], {"input_forget": 1}, "coupled_peephole_lstm"),
    ],
)
def test_a_node_with_the_equations_of_a_built_in_cell_has_that_cell(
    operator: str, optional: list[str], attributes: dict[str, Any], name: str, direction: str, tmp_path: Path
) -> None:
    attributes = {"direction": direction, **attributes}
    if direction == "bidirectional" and "activations" in attributes:
        attributes["activations"] = attributes["activations"] * 2
    states = ["sequence_lens", "initial_h", *["initial_c"][: operator == "LSTM"]]
    (layer,) = check(case(operator, *optional, *states, **attributes), tmp_path).values()
    assert layer.cell is cells.by_name(name)
    assert layer.bias == ("B" in optional)
    assert all(parameter.requires_grad for parameter in layer.parameters())
    assert isinstance(layer, Reverse) == (direction == "reverse")


@directions
@pytest.mark.parametrize("operator", ["RNN", "GRU", "LSTM"])
def test_a_clip_bounds_what_activations_read(operator: str, direction: str, tmp_path: Path) -> None:
    of = case(operator, "B", *["P"][: operator == "LSTM"], direction=direction, clip=0.4)
    with elman.use_engine("reference"):
        (layer,) = check(of, tmp_path).values()
    wide = Case(operator, of.attributes | {"clip": 40.0}, of.values)
    assert rms(exact(of)[0] - exact(wide)[0]) > 0.01
    assert layer.cell.name == f"onnx_{operator.lower()}"


def test_directions_with_different_activations_are_two_layers(tmp_path: Path) -> None:
    names = ["HardSigmoid", "Elu", "Tanh", "HardSigmoid", "Elu", "Tanh"]
    numbers: dict[str, Any] = {"activation_alpha": [0.3, 0.8, 0.4, 0.5], "activation_beta": [0.6, 0.4]}
    of = case("LSTM", "B", "P", "initial_c", "sequence_lens", direction="bidirectional", activations=names, **numbers)
    layers = check(of, tmp_path)  # the engine cpu compiles these cells
    assert list(layers) == ["cell", "cell.reverse"]
    assert not layers["cell"].bidirectional
    assert isinstance(layers["cell.reverse"], Reverse)
    steps: list[Any] = [layer.cell.step for layer in layers.values()]
    assert [round(a.alpha, 4) for step in steps for a in step.activations] == [0.3, 0.8, 0, 0.4, 0.5, 0]
    same = {"activation_alpha": [0.3, 0.8, 0.3, 0.8], "activation_beta": [0.6, 0.6]}
    with elman.use_engine("reference"):
        (layer,) = check(Case("LSTM", of.attributes | same, of.values), tmp_path).values()
    assert layer.bidirectional


@pytest.mark.parametrize("name", ["Tanh", "Relu", "Sigmoid", "Softsign", "Softplus", *NUMBERS])
def test_every_activation_and_its_derivative(name: str, tmp_path: Path) -> None:
    count = NUMBERS.get(name, 0)
    numbers: dict[str, Any] = {"activation_alpha": [0.7]} if count else {}
    numbers |= {"activation_beta": [0.3]} if count == 2 else {}
    of = case("RNN", "B", "initial_h", activations=[name], **numbers)
    with elman.use_engine("reference"):
        (layer,) = check(of, tmp_path).values()
        x = torch.linspace(-60, 60, 5)[:, None, None].double()
        far = elman.Recurrent(layer.cell, 1, 1, bias=False, dtype=torch.float64)
        far.load_state_dict({"weight_ih_l0": torch.ones(1, 1), "weight_hh_l0": torch.zeros(1, 1)})
        x.requires_grad_()
        y, _ = far(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    values = exact(
        Case("RNN", of.attributes, {"X": x.detach().numpy(), "W": np.ones((1, 1, 1)), "R": np.zeros((1, 1, 1))})
    )
    assert_allclose(y.detach().numpy()[..., None], values[0], rtol=1e-6, atol=1e-12)
    assert slope.isfinite().all()


@pytest.mark.parametrize("seed", range(4))
def test_layout_1_is_batch_first(seed: int, tmp_path: Path) -> None:
    operator, optional = [("GRU", []), ("LSTM", ["initial_c", "P"]), ("RNN", []), ("GRU", ["B"])][seed]
    of = case(
        operator, "initial_h", "sequence_lens", *optional, direction=["reverse", "bidirectional"][seed % 2], seed=seed
    )
    turned = {name: value.swapaxes(0, 1) for name, value in of.feed.items() if value.ndim == 3}
    other = Case(operator, of.attributes | {"layout": 1}, of.values | turned)
    (layer,) = load(saved(model_of(other), tmp_path)).values()
    assert layer.batch_first
    y, *finals = by_layers({"cell": layer}, of.feed | {"X": other.values["X"]})
    right = exact(of)
    assert_allclose(y.transpose(2, 1, 0, 3), right[0], rtol=1e-4, atol=1e-5)
    for mine, value in zip(finals, right[1:], strict=True):
        assert_allclose(mine, value, rtol=1e-4, atol=1e-5)
    ran = backend.run_model(model_of(other), other.feed)
    assert_allclose(ran[0].transpose(1, 2, 0, 3), right[0], rtol=1e-4, atol=1e-5)
    assert_allclose(ran[1].swapaxes(0, 1), right[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_the_layer_has_the_type_of_the_weights(dtype: str, tmp_path: Path) -> None:
    of = case("GRU", "B")
    kind = TensorProto.BFLOAT16 if dtype == "bfloat16" else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    given = {name: value.astype(helper.tensor_dtype_to_np_dtype(kind)) for name, value in of.values.items()}
    (layer,) = load(saved(model_of(Case("GRU", {}, given)), tmp_path)).values()
    assert {p.dtype for p in layer.parameters()} == {getattr(torch, dtype)}
    assert_allclose(
        layer.state_dict()["weight_ih_l0"].double(), given["W"][0].astype("float64")[[3, 4, 5, 0, 1, 2, 6, 7, 8]]
    )


def test_unpacked_undoes_to_onnx() -> None:
    from elman.layout import ONNX

    for cell, form in ONNX.items():
        layer = elman.Recurrent(cell, 3, 2)
        weights = layer.weights(0)
        for mine, own in zip(unpacked(cell, form, to_onnx(cell, weights)), weights, strict=True):
            assert (mine is None and own is None) or torch.equal(mine, own)  # pyright: ignore[reportArgumentType]


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    path, before = saved(model_of(case("LSTM")), tmp_path), torch.get_rng_state()
    load(path)
    assert torch.equal(before, torch.get_rng_state())


def test_a_reverse_layer_is_the_reverse_direction_alone() -> None:
    both = elman.LSTM(3, 4, bidirectional=True)
    alone = Reverse(cells.lstm, 3, 4)
    alone.load_state_dict({name: value for name, value in both.state_dict().items() if name.endswith("_reverse")})
    x, lengths = torch.randn(6, 2, 3), torch.tensor([6, 4])
    (y, (h, c)), (y_both, (h_both, c_both)) = alone(x, lengths=lengths), both(x, lengths=lengths)
    torch.testing.assert_close((y, h, c), (y_both[..., 4:], h_both[1:], c_both[1:]))
    for layer in (alone, elman.freeze(alone)):
        with pytest.raises(RuntimeError, match=r"reads from the end: .* there are no steps"):
            layer.step(x[0], (h, c))


def test_a_made_layer_can_be_trained_and_pickled(tmp_path: Path) -> None:
    of = case("LSTM", "B", "P", clip=1.0, activations=["HardSigmoid", "Softsign", "Elu"])
    (layer,) = load(saved(model_of(of), tmp_path)).values()
    again = pickle.loads(pickle.dumps(layer))
    x = torch.from_numpy(of.values["X"])
    with elman.use_engine("reference"):
        assert torch.equal(layer(x)[0], again(x)[0])
        layer(x)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


@pytest.mark.parametrize("test", node_tests._NodeTestCases, ids=lambda test: test.name)
def test_onnxs_own_tests_of_nodes(test: Any) -> None:
    inputs, outputs = test.data_sets[0]
    for made in (backend.prepare(test.model).run(inputs), backend.run_node(test.model.graph.node[0], inputs)):
        for mine, right in zip(made, outputs, strict=True):
            assert mine.dtype == right.dtype
            assert_allclose(mine, right, rtol=test.rtol, atol=test.atol)


def test_there_are_18_of_onnxs_own_tests() -> None:
    assert len(node_tests._NodeTestCases) == 18
    assert {test.model.graph.node[0].op_type for test in node_tests._NodeTestCases} == {"RNN", "GRU", "LSTM"}


def test_the_backend_runs_on_the_cpu_and_refuses_other_models() -> None:
    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA:0")
    other = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [], [])
    assert not backend.is_compatible(helper.make_model(other))
    assert backend.is_compatible(model_of(case("GRU")))
    model = model_of(case("GRU"))
    model.graph.node.append(helper.make_node("Relu", ["Y"], ["Z"]))
    model.graph.output[0].name = "Z"
    with pytest.raises(InputError, match="not \\['Z'\\]; take it out"):
        backend.Prepared(model)


def test_the_backend_takes_folded_weights_and_split_directions() -> None:
    names = ["Elu", "Tanh", "LeakyRelu", "Tanh"]
    of = case("GRU", "B", "initial_h", "sequence_lens", direction="bidirectional", activations=names)
    with elman.use_engine("reference"):
        made = backend.run_model(model_of(of, seed=3), of.feed)
    for mine, right in zip(made, exact(of), strict=True):
        assert_allclose(mine, right, rtol=1e-4, atol=1e-5)


def test_elman_does_not_import_onnx() -> None:
    code = "import sys, elman; assert 'onnx' not in sys.modules; assert 'elman.onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_are_found_in_every_way_of_storing_them(tmp_path: Path) -> None:
    of = case("LSTM", "B", "P", direction="bidirectional")
    plain = load(saved(model_of(of), tmp_path))["cell"].state_dict()
    kinds = set()
    for seed in range(12):
        model = model_of(of, seed)
        kinds |= {node.op_type for node in model.graph.node}
        for name, value in load(saved(model, tmp_path))["cell"].state_dict().items():
            assert torch.equal(value, plain[name])
    assert kinds >= {"Constant", "Transpose", "Concat", "Gather", "Cast", "Mul", "Add"}
    assert set(WEIGHTS) <= {*model_of(of).graph.node[-1].input}


def test_elu_loses_no_digits_near_zero() -> None:
    v = -np.logspace(-12, 2, 200, dtype="float32")
    mine = Activation("Elu", 1.0)(torch.from_numpy(v)).numpy()
    assert_allclose(mine, np.expm1(v.astype("float64")), rtol=1e-6)
