"""Models with elman layers as ONNX files: what the exporter writes, run in ONNX Runtime, by the accuracy rule."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn, relu, sigmoid, tanh
from torch.nn.functional import gelu, softplus
from torch.nn.utils import parametrizations

import elman
import elman.onnx
from accuracy import Errors
from cases import CELLS, draw, recurrent
from elman import Cell, Recurrent, State, cells, use_engine
from elman.errors import InputError
from elman.layout import onnx_form
from elman.onnx import exporting, proof, scan
from elman.onnx.proof import flat, session

INPUT, HIDDEN = 5, 7
FREE = torch.export.Dim.DYNAMIC
SIZES = [(1, 1), (1, 3), (4, 1), (9, 4)]  # T and B


def minimal(x, R, s):
    """Two products, one after the other."""
    f = sigmoid(x.f + R.f @ s.h)
    return State(h=(1 - f) * s.h + f * tanh(x.n + R.n @ (f * s.h)))


def strange(x, R, s, p):
    """A gate that multiplies two operands, a state of its own, and operations that no built-in cell has."""
    a = relu(x.a + R.a @ s.h)
    b = sigmoid(x.b + R.b @ (a / (1 + torch.abs(s.m))) + p.u * s.m)
    e = torch.exp(-a) * torch.sqrt(1 + b * b) - torch.log(1 + a) + softplus(b) - torch.log1p(a)
    m = torch.minimum(torch.maximum(s.m * b + e, -a), a + b)
    return State(h=tanh(torch.where(m < 0.2, m, gelu(m)) + 0.1 * (R.a @ m)), m=tanh(m))


def blind(x, R, s):
    """A cell that reads no input."""
    return State(h=tanh(R.h @ s.h + 0.5))


OWN = [
    Cell(minimal, gates=("f", "n"), name="minimal"),
    Cell(strange, gates=("a", "b"), states=("h", "m"), vectors=("u",), name="strange"),
    Cell(blind, gates=("h",), name="blind"),
]


class Many(nn.Module):
    """Many layers in one model, since an export takes seconds. Each reads the same x, and states made from `seed`."""

    def __init__(self, layers: Sequence[Recurrent], lengths: bool, states: bool, reset: bool):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.given = lengths, states, reset

    def forward(self, x: Tensor, lengths: Tensor, reset: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        """seed: (B, HIDDEN), of which the states are made."""
        with_lengths, with_states, with_reset = self.given
        results = list[Tensor]()
        for layer in self.layers:
            assert isinstance(layer, Recurrent)
            count, widths = (
                layer.num_layers * layer.num_directions,
                layer.cell.widths(layer.hidden_size, layer.proj_size),
            )
            by_row = torch.linspace(-1, 1, count, dtype=x.dtype)[:, None, None]
            states: Any = tuple((seed[None, :, :width] + by_row) * (1 if k else 0.5) for k, width in enumerate(widths))
            y, h_n = layer(
                x,
                (states if len(widths) > 1 else states[0]) if with_states else None,
                lengths=lengths if with_lengths else None,
                reset=reset if with_reset else None,
            )
            results += [y, *(h_n if isinstance(h_n, tuple) else (h_n,))]
        return tuple(results)


def inputs(T: int, B: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, T + 1, (B,), generator=random)
    if B > 1:
        lengths[0] = 0
    return (
        torch.randn(T, B, INPUT, dtype=dtype, generator=random),
        lengths,
        torch.rand(T, B, generator=random) < 0.4,
        torch.randn(B, HIDDEN, dtype=dtype, generator=random),
    )


def export(module: nn.Module, dtype: torch.dtype) -> onnx.ModelProto:
    """By plain torch.onnx.export, with free T and B."""
    with exporting._quiet():
        program = torch.onnx.export(
            module.eval(),
            inputs(3, 2, dtype),
            dynamo=True,
            verbose=False,
            optimize=False,  # it takes as long as all the rest, and is tried with users' models
            input_names=["x", "lengths", "reset", "seed"],
            dynamic_shapes=({0: FREE, 1: FREE}, {0: FREE}, {0: FREE, 1: FREE}, {0: FREE}),
        )
    assert program is not None
    return program.model_proto


def check(model: onnx.ModelProto, module: Many) -> float:
    """Judges every output by the accuracy rule, pooled over sizes, with NaN past the ends of the sequences.

    Returns the largest error of an output, as a multiple of PyTorch's.
    """
    dtype = next(module.parameters()).dtype
    opened = session(model.SerializeToString())
    names = {value.name for value in opened.get_inputs()}
    sums: list[Errors] = []
    exact = Many([*module.layers], *module.given)  # pyright: ignore[reportArgumentType]
    for number, (T, B) in enumerate([*SIZES, *SIZES]):
        given = inputs(T, B, dtype, seed=number)
        if module.given[0]:
            for b in range(B):
                given[0][given[1][b] :, b] = torch.nan
        found = opened.run(
            None, {n: v.numpy() for n, v in zip(("x", "lengths", "reset", "seed"), given, strict=True) if n in names}
        )
        with torch.no_grad(), use_engine("reference"):
            plain = module.to(dtype)(*given)
            true = exact.double()(given[0].double(), given[1], given[2], given[3].double())
            module.to(dtype)
        sums = sums or [Errors() for _ in found]
        for errors, mine, torchs, value in zip(sums, found, plain, true, strict=True):
            errors.add(torch.from_numpy(mine), torchs, value)
    for place, errors in enumerate(sums):
        assert errors.within, (place, errors)
    return max((errors.mine / errors.torch) ** 0.5 for errors in sums if errors.torch)


def layers_of(
    some: Sequence[Cell], layers: int, bidirectional: bool, dtype: torch.dtype = torch.float32, **options: Any
) -> list[Recurrent]:
    return [
        recurrent(cell, INPUT, HIDDEN, seed=k, dtype=dtype, num_layers=layers, bidirectional=bidirectional, **options)
        for k, cell in enumerate(some)
    ]


BUILT_IN = [cells.by_name(name) for name in CELLS]
SOME = [cells.rnn, cells.coupled_peephole_lstm, cells.gru, OWN[0]]  # one of each operator


# Every two of the four choices meet in every way, and all cells have a layer with everything. `bench/onnx_forms.py` tries
# all cells in all sixteen forms, with a third layer, which is written as the second one is.
FORMS = {
    "one layer": (1, False, False, False),
    "one layer, both directions, states, lengths": (1, True, True, True),
    "two layers, states, lengths": (2, False, True, True),
    "two layers, both directions, lengths": (2, True, False, True),
    "two layers, both directions, states": (2, True, True, False),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_cell_in_every_form(form: str) -> None:
    check_form(*FORMS[form])


def check_form(layers: int, bidirectional: bool, states: bool, lengths: bool) -> None:
    everything = layers == 1 and lengths
    check_cells([*BUILT_IN, *OWN] if everything else SOME, layers, bidirectional, states, lengths)


def check_cells(some: Sequence[Cell], layers: int, bidirectional: bool, states: bool, lengths: bool) -> float:
    module = Many(layers_of(some, layers, bidirectional), lengths, states, False)
    model = export(module, torch.float32)
    error = check(model, module)
    kinds = Counter(node.op_type for node in model.graph.node)
    forms = [onnx_form(cell) for cell in some]
    for operator in ("RNN", "LSTM", "GRU"):
        assert kinds[operator] == layers * sum(form is not None and form.operator == operator for form in forms)
    assert kinds["Scan"] == layers * (2 if bidirectional else 1) * forms.count(None)
    check_import(model, module)
    return error


def check_import(model: onnx.ModelProto, module: Many) -> None:
    """Every node comes back as its cell with its weights, to the bit: a Scan as one direction, another node as all."""
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder, "model.onnx"))
        found = iter(elman.onnx.load(Path(folder, "model.onnx")).values())
    for layer in module.layers:
        assert isinstance(layer, Recurrent)
        for depth in range(layer.num_layers):
            loaded = None
            for reverse in (False, True)[: layer.num_directions]:
                if loaded is None or onnx_form(layer.cell) is None:
                    loaded = next(found)
                assert loaded.cell.name == layer.cell.name
                for mine, exact in zip(loaded.weights(0, reverse), layer.weights(depth, reverse), strict=True):
                    assert (mine is None) == (exact is None)
                    assert mine is None or exact is None or torch.equal(mine, exact)
    assert next(found, None) is None


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
def test_resets_and_learned_states(lengths: bool) -> None:
    some = [cells.lstm, cells.gru_before, cells.projected_lstm, OWN[1]]
    if lengths:  # each cell learns its states in one case, and begins with zeros in the other
        some.reverse()
    learned = layers_of(some[2:], 2, True, learn_initial_state=True)
    for layer in learned:
        for state in layer.initial_states():
            nn.init.normal_(state)
    module = Many([*layers_of(some[:2], 1, True), *learned], lengths, lengths, True)
    check(export(module, torch.float32), module)


def test_one_layer_of_scans() -> None:
    """The smallest case that meets lengths, resets and both directions; planted bugs are looked for here."""
    module = Many(layers_of([OWN[0]], 1, True), True, True, True)
    check(export(module, torch.float32), module)


def test_float64() -> None:
    module = Many(layers_of([cells.lstm, cells.gru, OWN[0]], 2, True, torch.float64), True, True, False)
    model = export(module, torch.float64)
    opened, given = session(model.SerializeToString()), inputs(6, 3, torch.float64)
    found = opened.run(None, {n: v.numpy() for n, v in zip(("x", "lengths", "reset", "seed"), given, strict=True)})
    with torch.no_grad(), use_engine("reference"):
        for mine, exact in zip(found, module(*given), strict=True):
            assert torch.allclose(torch.from_numpy(mine), exact, rtol=1e-12, atol=1e-14)


def test_biases_left_out_and_rows_in_another_order() -> None:
    def turned(x, R, s):
        o = sigmoid(x.o + R.o @ s.h)
        f = sigmoid(x.f + R.f @ s.h)
        i = sigmoid(x.i + R.i @ s.h)
        g = tanh(x.g + R.g @ s.h)
        c = f * s.c + i * g
        return State(h=o * tanh(c), c=c)

    own = Cell(turned, gates=("g", "f", "o", "i"), states=("h", "c"))  # an LSTM by its equations
    some = [own, cells.coupled_peephole_lstm, cells.gru_before, OWN[0]]
    module = Many(layers_of(some, 1, True, bias=False), True, True, False)
    model = export(module, torch.float32)
    check(model, module)
    assert Counter(node.op_type for node in model.graph.node)["LSTM"] == 2


# Users' own models, by plain torch.onnx.export


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.recurrent = elman.PeepholeLSTM(6, 8, 2, bidirectional=True, dropout=0.5)
        self.output = nn.Linear(16, 3)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        h, _ = self.recurrent(self.norm(self.embedding(words)), lengths=lengths)
        return self.output(h)


class Translator(nn.Module):
    """An encoder and a decoder of two cells."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = elman.GRU(5, 8), elman.GRU(4, 8, reset_after=False)
        parametrizations.weight_norm(self.encoder, "weight_hh_l0")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        _, state = self.encoder(x)
        return self.decoder(y, state)[0]


def test_models_of_users() -> None:
    random = torch.Generator().manual_seed(0)
    cases: list[tuple[nn.Module, Any, Callable[[int, int], tuple[Tensor, ...]]]] = [
        (
            Tagger(),
            ({0: FREE, 1: FREE}, {0: FREE}),
            lambda T, B: (torch.randint(11, (T, B), generator=random), torch.randint(T + 1, (B,), generator=random)),
        ),
        (
            Translator(),
            ({0: FREE, 1: FREE}, {0: FREE, 1: FREE}),
            lambda T, B: (torch.randn(T, B, 5, generator=random), torch.randn(T + 2, B, 4, generator=random)),
        ),
    ]
    for module, shapes, make in cases:
        module.eval()
        with exporting._quiet():
            program = torch.onnx.export(module, make(4, 2), dynamo=True, verbose=False, dynamic_shapes=shapes)
        assert program is not None
        opened = session(program.model_proto.SerializeToString())
        for T, B in SIZES:
            given = make(T, B)
            found = opened.run(None, {i.name: v.numpy() for i, v in zip(opened.get_inputs(), given, strict=True)})[0]
            with torch.no_grad():
                assert torch.allclose(torch.from_numpy(found), module(*given), atol=2e-6)


class Halves(nn.Module):
    """Products in float16 behind transpositions, in elman's layers and in torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = elman.GRU(4, 6, bidirectional=True, batch_first=True)
        self.second = Recurrent(OWN[1], 12, 6, batch_first=True)
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.second(self.first(x)[0])[0])


def test_float16_with_the_batch_first(tmp_path: Path) -> None:
    """ONNX Runtime's optimizer dies of a MatMul behind a Transpose in float16."""
    path, shape, x = tmp_path / "model.onnx", ({0: FREE, 1: FREE},), torch.randn(3, 5, 4).half()
    module = Halves().eval().half()
    elman.onnx.export(module, path, (x,), dynamic_shapes=shape)
    with exporting._quiet():
        program = torch.onnx.export(nn.Sequential(module.first), (x,), dynamo=True, verbose=False, dynamic_shapes=shape)
    assert program is not None
    for opened, of in (
        (session(path.read_bytes()), module),
        (session(program.model_proto.SerializeToString()), module.first),
    ):
        for B, T in SIZES:
            x = torch.randn(B, T, 4).half()
            found = opened.run(None, {opened.get_inputs()[0].name: x.numpy()})[0]
            with torch.no_grad():
                assert torch.allclose(torch.from_numpy(found), flat(of(x))[0], rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("cell", [cells.lstm, OWN[0]], ids=lambda cell: cell.name)
def test_a_layer_in_float16_with_the_batch_first(tmp_path: Path, cell: Cell, streaming: bool) -> None:
    layer = recurrent(cell, 4, 6, dtype=torch.float16, batch_first=True)
    assert elman.onnx.export(layer, tmp_path / "layer.onnx", streaming=streaming).errors["y"] < 1e-3


def test_the_table_is_enough_where_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxscript.function_libs.torch_lib import registration

    monkeypatch.delattr(registration, "torch_op")
    with pytest.warns(UserWarning, match="custom_translation_table=elman.onnx.translations"):
        elman.onnx.register()
    with warnings.catch_warnings(), exporting._quiet():
        program = torch.onnx.export(
            elman.GRU(4, 8).eval(),
            (torch.randn(5, 3, 4),),
            dynamo=True,
            verbose=False,
            custom_translation_table=elman.onnx.translations,
        )
    assert program is not None
    assert [node.op_type for node in program.model_proto.graph.node][-2:] == ["GRU", "Squeeze"]


def test_the_old_exporter_is_refused() -> None:
    model = nn.Sequential(elman.GRU(4, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="leave dynamo=False out, and import elman"):
            torch.onnx.export(model, (torch.randn(5, 3, 4),), "never.onnx", dynamo=False)


def test_what_cannot_be_exported_is_named() -> None:
    def untraceable(x, R, s):
        return State(h=torch.cumsum(x.h + R.h @ s.h, -1))

    module = Recurrent(Cell(untraceable, gates=("h",)), 4, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match="untraceable") as raised, exporting._quiet():
            torch.onnx.export(module.eval(), (torch.randn(5, 3, 4),), dynamo=True, verbose=False)
    assert "cumsum" in str(raised.value)


def test_what_has_no_form_is_said_in_a_sentence(tmp_path: Path) -> None:
    """The exporter's own error has two thousand characters."""

    def untraceable(x, R, s):
        return State(h=torch.cumsum(x.h + R.h @ s.h, -1))

    def refused(layer: nn.Module, *args: Any, **options: Any) -> str:
        with pytest.raises(TypeError) as raised:
            elman.onnx.export(layer, tmp_path / "never.onnx", *args, **options)
        assert raised.value.__cause__ is None or raised.value.__suppress_context__
        return str(raised.value)

    odd = Recurrent(Cell(untraceable, gates=("h",), name="odd"), 4, 8)
    assert refused(odd).startswith("cell 'odd' cannot be exported: the step calls cumsum")
    bfloat16 = elman.GRU(4, 8).bfloat16()
    said = "cell 'gru' is exported in BFLOAT16, which a Scan is not written in; convert the model to float32"
    assert refused(nn.Sequential(bfloat16), torch.randn(5, 3, 4).bfloat16()) == said
    with torch.autocast("cpu"):
        assert refused(elman.GRU(4, 8)).startswith("cell 'gru' was exported under autocast to BFLOAT16")
    assert refused(elman.GRU(4, 8, device="meta")).startswith("weight_ih_l0 is on the device meta and has no numbers;")


def test_int8_is_refused_before_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.onnx, "export")
    for layer in (elman.GRU(4, 8).half(), nn.Sequential(elman.GRU(4, 8).double())):
        with pytest.raises(TypeError, match=r"int8 is made of float32, but .*weight_ih_l0 is float"):
            elman.onnx.export(layer, tmp_path / "never.onnx", None if isinstance(layer, Recurrent) else (), int8=True)


def test_every_operation_of_a_graph_has_its_own() -> None:
    from elman.operations import OPERATIONS

    assert set(OPERATIONS) == {*scan.OF_OPERATION, *scan.COMPARISONS, *scan.OVER_ROW, "log1p"}


# elman.onnx.export


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_layer_as_a_file(tmp_path: Path, batch_first: bool) -> None:
    layer = recurrent(
        cells.coupled_lstm,
        4,
        6,
        dtype=torch.float32,
        num_layers=2,
        bidirectional=True,
        batch_first=batch_first,
        dropout=0.5,
    )
    path = elman.onnx.export(layer, tmp_path / "layer.onnx").path
    assert layer.training  # the caller's layer is left as it was
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    axes = ["B", "T"] if batch_first else ["T", "B"]
    found = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    }
    assert found == {
        "x": [*axes, 4], "lengths": ["lengths"], "h_0": [4, "states", 6], "c_0": [4, "states", 6],
        "y": [*axes, 12], "h_n": [4, "B", 6], "c_n": [4, "B", 6],
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [path]
    assert str(Path(__file__).parent).encode() not in path.read_bytes()
    notes = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert notes["elman.states"] == [["h_0", "h_n"], ["c_0", "c_n"]]
    assert notes["elman.cell"] == "coupled_lstm"
    opened, x = session(path.read_bytes()), torch.randn(3, 5, 4)
    with torch.no_grad():
        y, (h, c) = layer.eval()(x)
    for mine, exact in zip(opened.run(None, {"x": x.numpy()}), (y, h, c), strict=True):  # lengths and states left out
        assert torch.allclose(torch.from_numpy(mine), exact, atol=2e-6)
    alone = torch.randn(4, 1, 6)
    batch = x.shape[0 if batch_first else 1]
    with torch.no_grad():
        exact, _ = layer(x, (alone.expand(-1, batch, -1).contiguous(), torch.zeros(4, batch, 6)))
    mine = opened.run(["y"], {"x": x.numpy(), "h_0": alone.numpy()})[0]  # one state for all rows
    assert torch.allclose(torch.from_numpy(mine), exact, atol=2e-6)


@pytest.mark.parametrize("cell", [cells.coupled_peephole_lstm, cells.gru_before, cells.rnn_relu], ids=lambda c: c.name)
def test_a_file_comes_back_as_the_layer(tmp_path: Path, cell: Cell) -> None:
    layer = recurrent(cell, 4, 6, dtype=torch.float32, bidirectional=True)
    (loaded,) = elman.onnx.load(elman.onnx.export(layer, tmp_path / "layer.onnx").path).values()
    x, lengths = torch.randn(7, 3, 4), torch.tensor([7, 0, 3])
    with torch.no_grad():
        for mine, exact in zip(loaded(x, lengths=lengths), layer(x, lengths=lengths), strict=True):
            for one, other in zip(*((v if isinstance(v, tuple) else (v,)) for v in (mine, exact)), strict=True):
                assert torch.allclose(one, other, atol=1e-6)
    assert loaded.cell is cell


def test_a_layer_that_only_reads_backwards(tmp_path: Path) -> None:
    from elman.onnx.node import Reverse

    layer, x = Reverse(cells.lstm, 3, 4), torch.randn(6, 2, 3)
    with torch.no_grad():
        y, _ = layer(x)
        gate = elman.trace(layer, x).recurrences[0].states["h"]
        assert torch.allclose(gate, y, atol=1e-6)  # at step t what belongs to step t
        assert torch.allclose(elman.freeze(layer)(x)[0], y, atol=1e-6)
    path = elman.onnx.export(layer, tmp_path / "layer.onnx").path
    (loaded,) = elman.onnx.load(path).values()
    with torch.no_grad():
        assert torch.allclose(loaded(x)[0], y, atol=1e-6)


def test_weights_are_packed_into_the_file(tmp_path: Path) -> None:
    """Nothing is computed from the weights when the file is run, and they are there once."""
    for cell, most in ((cells.coupled_peephole_lstm, 7), (cells.gru, 6), (cells.rnn, 6)):
        layer = Recurrent(cell, 64, 64)
        path = elman.onnx.export(layer, tmp_path / "layer.onnx").path
        model = onnx.load(path)
        node = next(n for n in model.graph.node if n.op_type in ("RNN", "LSTM", "GRU"))
        constants = {each.name for each in model.graph.initializer}
        assert {node.input[1], node.input[2], node.input[3]} <= constants
        after = [n.op_type for n in model.graph.node if not n.output[0].startswith("optional")]
        assert len(after) <= most, after
        assert path.stat().st_size < 4 * sum(p.numel() for p in layer.parameters()) * 4 / len(cell.gates) + 20_000


def swapped(model: Any) -> Any:
    """Two gates of the recurrent weights change places."""
    weight = next(v for v in model.graph.initializers.values() if list(v.shape) == [1, 18, 6])
    rows = weight.const_value.numpy().copy()
    weight.const_value = ir.tensor(rows[:, [*range(6, 12), *range(6), *range(12, 18)]], name=weight.name)
    return model


def transposed(model: Any) -> Any:
    """Every gate has the transpose of its recurrent weights."""
    weight = next(v for v in model.graph.initializers.values() if list(v.shape) == [1, 18, 6])
    turned = weight.const_value.numpy().reshape(3, 6, 6).transpose(0, 2, 1).reshape(1, 18, 6)
    weight.const_value = ir.tensor(turned, name=weight.name)
    return model


def without_biases(model: Any) -> Any:
    bias = next(v for v in model.graph.initializers.values() if list(v.shape) == [1, 36])
    bias.const_value = ir.tensor(bias.const_value.numpy() * np.float32(0), name=bias.name)
    return model


WRONG = {"wrong rows": swapped, "transposed": transposed, "without biases": without_biases}


class Rounded:
    """A session that rounds in other places than PyTorch, and most where values are small."""

    def __init__(self, content: bytes) -> None:
        self.opened = session(content)

    def run(self, names: Any, feed: Any) -> Any:
        eps = np.finfo(np.float32).eps
        return [value + 3 * eps * np.abs(value).max() for value in self.opened.run(names, feed)]


class Shortened:
    """A session that gives one step only, as a file does whose time is frozen."""

    def __init__(self, content: bytes) -> None:
        self.opened = session(content)

    def run(self, names: Any, feed: Any) -> Any:
        y, *rest = self.opened.run(names, feed)
        return [y[:1], *rest]


@pytest.mark.parametrize("kind", [*WRONG, "frozen time"])
def test_a_file_that_is_wrong_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    layer, path = recurrent(cells.gru, 4, 6, dtype=torch.float32), tmp_path / "layer.onnx"
    path.write_bytes(b"old")
    true = exporting.traced
    if kind in WRONG:
        monkeypatch.setattr(exporting, "traced", lambda *given: WRONG[kind](true(*given)))
    else:
        monkeypatch.setattr(proof, "session", Shortened)
    with pytest.raises(
        InputError, match=r"was not written: (the error of y in ONNX Runtime is .* but .* is allowed|its y is)"
    ):
        elman.onnx.export(layer, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


class Structures(nn.Module):
    """Arguments in a tuple and by name, and results in a dictionary, some of them None, infinite, boolean or whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = elman.LSTM(4, 8)

    def forward(self, x: Tensor, states: Any, first: Any = None, second: Any = None) -> dict[str, Any]:
        y, states = self.recurrent(x + first - 2 * second, states)
        return {"z": y.masked_fill(y < 0, -torch.inf), "a": (y > 0, None, [y.argmax(-1)]), "states": states}


class OwnTypes(nn.Module):
    """It does not run in float64: it makes a state of its own, and has a part in float16."""

    def __init__(self, half: bool) -> None:
        super().__init__()
        self.first, self.second = elman.GRU(4, 8), elman.GRU(8, 5, dtype=torch.float16 if half else None)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.first(x, torch.zeros(1, x.shape[1], 8))
        return self.second(y.to(self.second.weight_ih_l0.dtype))[0].float()


class Frozens(nn.Module):
    """Frozen layers, one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        learned = draw(elman.LSTM(4, 3, bidirectional=True, learn_initial_state=True), 0)
        self.first = self.again = elman.freeze(elman.GRU(4, 4, num_layers=2))
        self.rest = nn.Sequential(elman.freeze(learned))

    def forward(self, x: Tensor) -> Any:
        return self.rest(self.again(self.first(x)[0])[0])


with torch.random.fork_rng(devices=[]):  # so that errors do not depend on what was drawn before
    torch.manual_seed(0)
    MODELS: dict[str, tuple[nn.Module, Any, float]] = {
        "structures": (
            Structures(),
            (torch.randn(5, 3, 4), tuple(torch.randn(2, 1, 3, 8)), {"second": torch.randn(4), "first": torch.randn(4)}),
            1e-6,
        ),
        "zeros": (OwnTypes(False), (torch.randn(5, 3, 4),), 1e-6),
        "a part in float16": (OwnTypes(True), (torch.randn(5, 3, 4),), 1e-3),
        "frozen layers": (Frozens(), torch.randn(5, 3, 4), 1e-6),
        "a cell": (elman.LSTMCell(4, 8), (torch.randn(3, 4), tuple(torch.randn(2, 3, 8))), 1e-6),
    }


@pytest.mark.parametrize("name", MODELS)
def test_models_of_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module, given, most = MODELS[name]
    path = tmp_path / "model.onnx"
    errors = elman.onnx.export(module, path, given).errors
    assert len(errors) == len(onnx.load(path).graph.output)
    assert max(errors.values()) < most

    class Wrong(Rounded):
        def run(self, names: Any, feed: Any) -> Any:
            first, *rest = self.opened.run(names, feed)
            return [first * np.float32(1 + 100 * most), *rest]

    monkeypatch.setattr(proof, "session", Wrong)
    with pytest.raises(InputError, match="was not written: the error of"):
        elman.onnx.export(module, path, given)


class Twice(nn.Module):
    """Layers with the same weights that read the same x, in one model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other = (recurrent(OWN[k], 4, 6, dtype=torch.float32, bidirectional=True) for k in (0, 1))
        self.second = recurrent(OWN[0], 4, 6, dtype=torch.float32, seed=1, bidirectional=True)
        self.second.weight_hh_l0 = self.first.weight_hh_l0

    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.first(x)[0] + self.first(x)[0], self.first(x, h)[0], self.second(x), self.other(x)


def test_a_file_is_always_the_same(tmp_path: Path) -> None:
    """A Scan's values have the same names in every export, and no two values have the same."""
    module, given = Twice(), (torch.randn(5, 3, 4), torch.randn(2, 3, 6))
    files = [elman.onnx.export(module, tmp_path / "a.onnx", given).path.read_bytes() for _ in range(2)]
    assert files[0] == files[1]
    with exporting._quiet():
        program = torch.onnx.export(module.eval(), given, dynamo=True, verbose=False, optimize=False)
    assert program is not None
    model = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    names = [value.name for node in model.graph.node for each in node.attribute for value in each.g.input]
    assert len(names) == len({*names}) > 8
    session(model.SerializeToString())


@pytest.mark.parametrize("streaming", [False, True])
def test_a_frozen_layer(tmp_path: Path, streaming: bool) -> None:
    """Its file is that of the layer that it was made from."""
    layer = recurrent(
        cells.peephole_lstm, 4, 6, dtype=torch.float32, num_layers=2, batch_first=True, learn_initial_state=True
    )
    files = [
        elman.onnx.export(of, tmp_path / "a.onnx", streaming=streaming).path.read_bytes()
        for of in (layer, elman.freeze(layer))
    ]
    assert files[0] == files[1]


def test_a_file_may_round_in_other_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch's error is small by chance, a few roundings are no mistake."""
    monkeypatch.setattr(proof, "session", Rounded)
    assert (
        5e-8
        < elman.onnx.export(recurrent(cells.gru, 4, 6, dtype=torch.float32), tmp_path / "layer.onnx").errors["y"]
        < 4e-6
    )


def test_any_model_with_its_arguments(tmp_path: Path) -> None:
    given = torch.randint(11, (4, 2)), torch.tensor([4, 2])
    path = elman.onnx.export(
        Tagger(), tmp_path / "tagger.onnx", given, input_names=["words", "lengths"], output_names=["logits"],
        dynamic_shapes=({0: FREE, 1: FREE}, {0: FREE}),
    ).path  # fmt: skip
    assert [value.name for value in onnx.load(path).graph.output] == ["logits"]
    with pytest.raises(TypeError, match="Tagger is no elman layer, so args have to show what it takes"):
        elman.onnx.export(Tagger(), tmp_path / "tagger.onnx")
    for name in ("args", "input_names", "output_names", "dynamic_shapes"):
        useless: Any = {name: (torch.randn(2, 2, 7),)}
        with pytest.raises(
            TypeError, match=f"^{name} have no use for an elman layer, whose file has inputs of its own"
        ):
            elman.onnx.export(elman.GRU(2, 3), tmp_path / "layer.onnx", **useless)
    with pytest.raises(TypeError, match=r"is a path, got tuple; .*: export\(model, path, args\)"):
        elman.onnx.export(Tagger(), given, tmp_path / "tagger.onnx")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="No such file or directory"):
        elman.onnx.export(elman.GRU(2, 3), tmp_path / "none" / "a.onnx")
