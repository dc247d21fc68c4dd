"""Streams: what a step reads besides the input, given by the caller for every step."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, sigmoid, tanh
from torch.autograd import gradgradcheck
from torch.nn.functional import linear

import elman
import elman.onnx
import quick_triton  # noqa: F401
from cases import as_tuple, close, inputs, normal, recurrent, weighted
from elman import Cell, Recurrent, State, graph
from elman.cell import cell as define
from elman.cpu.layer import inference
from elman.mathematics import equations
from elman.one_step import RecurrentCell
from settings import setting, shared_units, two_threads
from test_cpu_cells import agree

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning"),  # of numpy, where nothing is stored
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
]


@define(gates=("r", "z", "n"), streams=("gap",))
def decayed_gru(x: Any, R: Any, s: Any, u: Any) -> State:
    """The state decays in the time since the step before, which is an operand, too."""
    h = s.h * torch.exp(-abs(u.gap))
    r = sigmoid(x.r + R.r @ h)
    z = sigmoid(x.z + R.z @ h + u.gap)
    return State(h=(1 - z) * tanh(x.n + R.n @ (r * h) + R.z @ u.gap) + z * h)


@define(gates=("i", "f", "g", "o"), states=("h", "c"), streams=("keep", "mask"))
def dropped_lstm(x: Any, R: Any, s: Any, u: Any) -> State:
    """Dropout of the recurrent state, and zoneout of the memory: `keep` only decides."""
    h = s.h * u.mask
    i, f, o = sigmoid(x.i + R.i @ h), sigmoid(x.f + R.f @ h), sigmoid(x.o + R.o @ h)
    c = torch.where(u.keep > 0, s.c, f * s.c + i * tanh(x.g + R.g @ h))
    return State(h=o * tanh(c), c=c)


@define(gates=("a",), states=("h", "c"), vectors=("v",), projected=("h",), streams=("w", "y"))
def passed_on(x: Any, R: Any, s: Any, p: Any, P: Any, u: Any) -> State:
    """A stream that is a state, one that is normalised, and a narrower state."""
    v = u.y - u.y.mean(-1, keepdim=True) + p.v * u.w
    return State(h=P.h @ tanh(v + x.a + R.a @ s.h + s.c), c=u.w)


CELLS = (decayed_gru, dropped_lstm, passed_on)
EACH = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
ENGINES = pytest.mark.parametrize("engine", ["cpu", "gpu"])


def options(cell: Cell) -> dict[str, Any]:
    return {"proj_size": 3} if cell.projected else {}


def streams_of(of: Recurrent | RecurrentCell, *rows: int, seed: int = 9) -> dict[str, Tensor]:
    dtype = next(of.parameters()).dtype
    names = enumerate(of.cell.streams)
    return {name: normal(*rows, of.hidden_size, seed=seed + k, dtype=dtype) for k, name in names}


@EACH
@ENGINES
def test_values_and_gradients(cell: Cell, engine: str) -> None:
    agree(cell, hidden_size=7, engine=engine, bidirectional=True, num_layers=2, **options(cell))
    agree(cell, hidden_size=5, engine=engine, steps=1, batch=1, bias=False, **options(cell))
    agree(cell, hidden_size=35, engine=engine, steps=3, batch=1, **options(cell))


@EACH
def test_resident_kernels_read_them_too(cell: Cell, resident: None) -> None:
    if not cell.projected and cell is not passed_on:
        agree(cell, hidden_size=17, engine="gpu", bidirectional=True)


def test_it_is_what_a_loop_by_hand_computes() -> None:
    """An LSTM with a mask on the recurrent state, one for each sequence, as Gal & Ghahramani (2016) have it."""
    of = recurrent(dropped_lstm, 3, 6)
    x, (h, c) = inputs(of, 5, 4)
    h, c = h[0], c[0]
    mask = (normal(4, 6, seed=3) > 0).double() * 2
    output, _ = of(x, (h[None], c[None]), streams={"mask": mask.expand(5, 4, 6), "keep": torch.zeros(5, 4, 1).double()})
    (weights,) = of.each_weights()
    assert weights.ih is not None
    assert weights.hh is not None
    for t in range(5):
        share = linear(x[t], weights.ih, weights.b_ih) + linear(h * mask, weights.hh, weights.b_hh)
        i, f, g, o = share.chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        close(output[t], h)


def results_and_gradients(
    of: Recurrent, x: Tensor, states: tuple[Tensor, ...], streams: dict[str, Tensor], **more: Any
) -> dict[str, Tensor]:
    leaves = {name: stream.detach().clone().requires_grad_() for name, stream in streams.items()}
    x = x.detach().clone().requires_grad_()
    output, h_n = of(x, states[0] if len(states) == 1 else states, streams=leaves, **more)
    results = output, *as_tuple(h_n)
    sources = {"x": x, **leaves, **dict(of.named_parameters())}
    found = torch.autograd.grad(weighted(results), list(sources.values()), allow_unused=True, materialize_grads=True)
    return dict(zip([*map(str, range(len(results))), *sources], [*results, *found], strict=True))


@EACH
@pytest.mark.parametrize("engine", ["cpu", "gpu", "reference"])
@pytest.mark.parametrize("resets", [False, True], ids=["lengths", "resets"])
def test_what_is_not_there_is_not_read(cell: Cell, engine: str, resets: bool) -> None:
    """Streams past the end of a sequence may be anything, and have the gradient zero."""
    of = recurrent(cell, 3, 5, bidirectional=True, **options(cell))
    x, states = inputs(of, 6, 4)
    lengths, streams = torch.tensor([6, 0, 3, 5]), streams_of(of, 6, 4)
    inside = (torch.arange(6)[:, None] < lengths)[..., None]
    reset = {"reset": torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.4} if resets else {}
    given = {name: torch.where(inside, stream, torch.nan) for name, stream in streams.items()}
    with elman.use_engine("reference"):
        exact = results_and_gradients(of, x, states, streams, lengths=lengths, **reset)
    with elman.use_engine(engine):
        mine = results_and_gradients(of, x, states, given, lengths=lengths, **reset)
    close(mine, exact)
    for name in cell.streams:
        assert not mine[name].masked_select(~inside).any()


@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
def test_a_long_sequence_in_chunks(bidirectional: bool) -> None:
    """Inference makes the input's share some steps at a time; each direction reads the streams of its own steps."""
    of = recurrent(dropped_lstm, 3, 5, bidirectional=bidirectional)
    x, states = inputs(of, 300, 2)
    streams = streams_of(of, 300, 2)
    with elman.use_engine("reference"):
        exact = of(x, states, streams=streams)
    for chunks in (64, 3):
        with elman.use_engine("cpu"), torch.no_grad(), setting(inference, SHARE_BYTES=400, CHUNKS=chunks):
            close(of(x, states, streams=streams), exact)


def test_layouts_and_widths() -> None:
    of = recurrent(dropped_lstm, 3, 6, batch_first=True, bidirectional=True)
    x = normal(4, 5, 3, seed=1)
    mask, keep = normal(4, 1, 6, seed=2), -normal(4, 5, 1, seed=3)
    whole = {"mask": mask.expand(4, 5, 6).contiguous(), "keep": keep.expand(4, 5, 6).contiguous()}
    exact = of(x, streams=whole)
    for engine in ("reference", "cpu", "gpu"):
        with elman.use_engine(engine):
            close(of(x, streams={"keep": keep, "mask": mask.expand(4, 5, 6)}), exact)
            close(of(x, streams={"keep": keep, "mask": torch.stack([whole["mask"]] * 2, -1)[..., 0]}), exact)
    lengths = torch.tensor([5, 0, 3, 2])
    with elman.use_engine("reference"):
        short = of(x, streams=whole, lengths=lengths)
        last = of(x[3:], streams={name: stream[3:] for name, stream in whole.items()}, lengths=lengths[3:])
    close(of(x, streams={"keep": keep, "mask": mask.expand(4, 5, 6)}, lengths=lengths), short)
    apart = {name: stream.transpose(0, 1).contiguous().transpose(0, 1)[3:] for name, stream in whole.items()}
    close(of(x[3:], streams=apart, lengths=lengths[3:]), last)
    for k in range(4):
        alone = of(x[k], streams={name: stream[k] for name, stream in whole.items()})
        close(alone[0], exact[0][k])
    leaf = mask.clone().requires_grad_()
    of(x, streams={"keep": keep, "mask": leaf.expand(4, 5, 6)})[0].sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.shape == (4, 1, 6)
    assert leaf.grad.any()


@EACH
def test_threads_do_not_change_a_bit(cell: Cell) -> None:
    for steps, batch, units in ((9, 2, 131), (5, 40, 33)):
        of = recurrent(cell, 3, units, dtype=torch.float32, bidirectional=True, **options(cell))
        x, states = inputs(of, steps, batch)
        streams = streams_of(of, steps, batch)
        alone = results_and_gradients(of, x, states, streams)
        with two_threads(), shared_units():
            together = results_and_gradients(of, x, states, streams)
        assert all(torch.equal(together[name], value) for name, value in alone.items()), (steps, batch, units)


@EACH
def test_frozen_and_step_by_step(cell: Cell) -> None:
    of = recurrent(cell, 3, 19, num_layers=2, **options(cell))
    x, _ = inputs(of, 5, 3)
    streams = streams_of(of, 5, 3)
    with torch.no_grad():
        exact, h_n = of(x, streams=streams)
        close(elman.freeze(of)(x, streams=streams), (exact, h_n))
        state = None
        for t in range(5):
            output, state = of.step(x[t], state, streams={name: stream[t] for name, stream in streams.items()})
            close(output, exact[t])
        output, _ = of.step(x[0, 0], streams={name: stream[0, 0] for name, stream in streams.items()})
        close(output, exact[0, 0])
    both = recurrent(cell, 3, 19, bidirectional=True, **options(cell))
    with torch.no_grad():
        for _ in range(2):
            close(elman.freeze(both)(x, streams=streams), both(x, streams=streams))


def test_one_step_of_a_cell() -> None:
    of = RecurrentCell(decayed_gru, 3, 5, dtype=torch.float64)
    sequence = Recurrent(decayed_gru, 3, 5, dtype=torch.float64)
    sequence.load_state_dict({f"{name}_l0": p for name, p in of.state_dict().items()})
    x, h, gap = normal(2, 3, seed=0), normal(2, 5, seed=1), normal(2, 1, seed=2)
    close(of(x, h, streams={"gap": gap}), sequence(x[None], h[None], streams={"gap": gap[None]})[0][0])
    close(of(x[0], h[0], streams={"gap": gap[0]}), of(x, h, streams={"gap": gap})[0])


def test_what_needs_no_gradient_gets_none() -> None:
    of = recurrent(dropped_lstm, 3, 6, bidirectional=True)
    x, states = inputs(of, 4, 2)
    streams = streams_of(of, 4, 2)
    exact = results_and_gradients(of, x, states, streams)
    assert not exact["keep"].any()  # it only decides
    for engine in ("cpu", "gpu"):
        with elman.use_engine(engine):
            streams["mask"].requires_grad_()
            of.zero_grad()
            output, h_n = of(x, states, streams=streams)
            weighted((output, *h_n)).backward()
        close(streams["mask"].grad, exact["mask"])
        close(of.weight_hh_l0.grad, exact["weight_hh_l0"])
        assert streams["keep"].grad is None
        streams["mask"] = streams["mask"].detach()


@pytest.mark.parametrize("autocast", [False, True])
def test_half_types(autocast: bool) -> None:
    of = recurrent(dropped_lstm, 3, 6, dtype=torch.float32 if autocast else torch.bfloat16)
    x, states = inputs(of, 4, 2)
    streams = streams_of(of, 4, 2)
    wide = copy.deepcopy(of).double()
    double = {name: stream.double() for name, stream in streams.items()}
    exact, _ = wide(x.double(), tuple(s.double() for s in states), streams=double)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert (of(x, states, streams=streams)[0] - exact).abs().max() < 0.03


def test_compiled_exported_and_differentiated_again() -> None:
    of = recurrent(decayed_gru, 3, 4, bidirectional=True)
    x, states = inputs(of, 3, 2)
    streams = streams_of(of, 3, 2)
    exact = results_and_gradients(of, x, states, streams)
    compiled: Any = torch.compile(of, fullgraph=True, backend="aot_eager", dynamic=True)
    output, h_n = compiled(x, states[0], streams=streams)
    close([output, h_n], [exact["0"], exact["1"]])

    time = torch.export.Dim("T", min=2)
    shapes: Any = {"input": {0: time}, "hx": None, "streams": {"gap": {0: time}}}
    program = torch.export.export(of, (x, states[0]), {"streams": streams}, dynamic_shapes=shapes)
    long, longer = normal(7, 2, 3, seed=4), streams_of(of, 7, 2)
    close(program.module()(long, states[0], streams=longer), of(long, states[0], streams=longer))
    gap = streams["gap"].requires_grad_()
    assert gradgradcheck(lambda gap: of(x, states[0], streams={"gap": gap})[0], gap)
    given = (gap.detach(),)
    tangent: Any = torch.func.jvp(lambda gap: of(x, states[0], streams={"gap": gap})[0].sum(), given, given)[1]
    d = torch.autograd.grad(of(x, states[0], streams={"gap": gap})[0].sum(), gap)[0]
    close(tangent, (d * gap).sum().detach())


@pytest.mark.parametrize("wide", [1, 4])
def test_compiled_where_only_the_length_of_the_input_is_open(wide: int) -> None:
    """As after another layer was compiled, with another length: the compiler remembers lengths by an argument's name."""
    of = recurrent(decayed_gru, 3, 4)
    x, states = inputs(of, 5, 2)
    streams = {"gap": normal(5, 2, wide, seed=3).abs()}
    torch._dynamo.maybe_mark_dynamic(x, 0)
    compiled: Any = torch.compile(of, fullgraph=True, backend="aot_eager")
    close(compiled(x, states[0], streams=streams), of(x, states[0], streams=streams))


def test_onnx(tmp_path: Path) -> None:
    for k, cell in enumerate(CELLS):
        of = recurrent(cell, 3, 5, dtype=torch.float32, bidirectional=k == 1, batch_first=k == 1, **options(cell))
        proof = elman.onnx.export(of, tmp_path / "layer.onnx")
        assert max(proof.errors.values()) < 1e-5
        found = list(elman.onnx.load(proof.path).values())
        assert [each.cell.streams for each in found] == [cell.streams] * (1 + of.bidirectional)
        if not of.bidirectional:
            x, streams = torch.randn(4, 2, 3), streams_of(of, 4, 2)
            with torch.no_grad():
                torch.testing.assert_close(found[0](x, streams=streams), of(x, streams=streams))
            elman.onnx.export(of, tmp_path / "step.onnx", streaming=True)


@define(gates=(), streams=("rate", "v"))
def only_streams(x: Any, R: Any, s: Any, u: Any) -> State:
    return State(h=s.h * torch.exp(-abs(u.rate)) + u.v)


@define(gates=(), projected=("h",), streams=("v",))
def projected_stream(x: Any, R: Any, s: Any, P: Any, u: Any) -> State:
    return State(h=P.h @ tanh(u.v) + 0.5 * s.h)


def test_a_layer_without_parameters_is_frozen() -> None:
    of = Recurrent(only_streams, 3, 5, num_layers=2, bidirectional=True)
    assert not list(of.parameters())
    x, streams = torch.randn(4, 2, 3), {name: torch.randn(4, 2, 5) for name in ("rate", "v")}
    torch.testing.assert_close(elman.freeze(of)(x, streams=streams), of(x, streams=streams))


@pytest.mark.parametrize("cell", [only_streams, projected_stream], ids=lambda cell: cell.name)
def test_onnx_files_of_cells_without_gates(cell: Cell, tmp_path: Path) -> None:
    """The number of units is that of another matrix, or of the states."""
    of = Recurrent(cell, 3, 5, num_layers=2, bidirectional=True, **options(cell))
    assert len(elman.onnx.load(elman.onnx.export(of, tmp_path / "layer.onnx").path)) == 4
    of = Recurrent(cell, 3, 5, **options(cell))
    (found,) = elman.onnx.load(elman.onnx.export(of, tmp_path / "layer.onnx").path).values()
    x, streams = torch.randn(4, 2, 3), {name: torch.randn(4, 2, 5) for name in of.cell.streams}
    torch.testing.assert_close(found(x, streams=streams), of(x, streams=streams))
    elman.onnx.export(of, tmp_path / "step.onnx", streaming=True)


def test_integers_do_not_see_what_is_not_there(tmp_path: Path) -> None:
    """In integers, an operand has one scale for all rows, which a stream past the end of one would spoil."""
    of = recurrent(decayed_gru, 3, 5, dtype=torch.float32)
    proof = elman.onnx.export(of, tmp_path / "layer.onnx", int8=True)
    assert max(proof.errors.values()) < 0.2


@pytest.mark.parametrize("engine", ["cpu", "gpu", "reference"])
def test_what_is_not_there_has_a_logarithm(engine: str) -> None:
    """No infinity comes in from steps that are not there, such as zero times infinity in a gradient."""

    def step(x: Any, R: Any, s: Any, u: Any) -> State:
        return State(h=tanh(x.a + R.a @ s.h) * torch.log(u.dt) + s.h / u.dt)

    of = recurrent(Cell(step, gates=("a",), streams=("dt",)), 3, 5)
    x, states = inputs(of, 4, 3)
    with elman.use_engine(engine):
        streams = {"dt": normal(4, 3, 5, seed=1).exp()}
        found = results_and_gradients(of, x, states, streams, lengths=torch.tensor([4, 0, 2]))
    assert all(value.isfinite().all() for value in found.values())


def test_a_stream_has_a_name_of_its_own_in_equations() -> None:
    """It is the first value of its name, and has a prime if a value or a state has the same name."""

    def step(x: Any, R: Any, s: Any, u: Any) -> State:
        gap = torch.exp(-u.gap)
        return State(h=tanh(x.a + R.a @ (s.h * gap)) * u.h)

    gap, h = equations(Cell(step, gates=("a",), streams=("gap", "h")))
    assert gap == "gap_t = exp(-gap'_t)"
    assert h.endswith(" ⊙ h'_t")


def test_pictures_and_equations() -> None:
    of = recurrent(decayed_gru, 3, 5)
    x, states = inputs(of, 4, 2)
    streams = streams_of(of, 4, 2)
    traced = elman.trace(of, x, states[0], streams=streams)
    close(traced.output, of(x, states[0], streams=streams)[0])
    assert traced.recurrences[0].gates["z"].shape == (4, 2, 5)
    assert elman.describe(of, x, states[0], streams=streams).engines[0].engine == "cpu"
    assert equations(decayed_gru)[0] == "h'_t = h_{t-1} ⊙ exp(-abs(gap_t))"


def test_a_cell_is_told_apart_by_its_streams() -> None:
    """Also by one that has no effect, since a call has it."""

    def step(x: Any, R: Any, s: Any, u: Any) -> State:
        return State(h=tanh(x.a + R.a @ s.h) * u.v)

    def reading(x: Any, R: Any, s: Any, u: Any) -> State:
        assert u.w is not None
        return step(x, R, s, u)

    one, two = Cell(step, gates=("a",), streams=("v",)), Cell(reading, gates=("a",), streams=("v", "w"))
    assert graph.fingerprint(one) != graph.fingerprint(two)
    assert pickle.loads(pickle.dumps(decayed_gru)) is decayed_gru
    assert copy.deepcopy(decayed_gru) is decayed_gru


WRONG: dict[str, tuple[Callable[[Recurrent, Tensor], Any], str]] = {
    "none": (lambda of, x: of(x), r"has the streams \(gap\), but none were given; give streams=\{'gap': v\}"),
    "no mapping": (lambda of, x: of(x, streams=x), r"but got Tensor; give streams=\{'gap': v\}"),
    "another name": (lambda of, x: of(x, streams={"dt": x}), r"\(gap\), but \(dt\) were given; give streams="),
    "no tensor": (lambda of, x: of(x, streams={"gap": 1.0}), "the stream gap must be a tensor, got float"),
    "no tensor but numbers": (
        lambda of, x: of(x, streams={"gap": x.numpy()}),
        r"got ndarray; convert it: torch.as_tensor\(v, dtype=torch.float64\)",
    ),
    "sparse": (
        lambda of, x: of(x, streams={"gap": torch.ones(4, 2, 5).double().to_sparse()}),
        "the stream gap has the layout torch.sparse_coo but must be dense; make it so with .to_dense()",
    ),
    "another width": (
        lambda of, x: of(x, streams={"gap": x}),
        r"the stream gap is \(4, 2, 3\) but must be \(4, 2, 5\) or \(4, 2, 1\), laid out as the input is",
    ),
    "no time": (lambda of, x: of(x, streams={"gap": torch.ones(2, 5)}), r"is \(2, 5\) but must be \(4, 2, 5\)"),
    "another type": (
        lambda of, x: of(x, streams={"gap": torch.ones(4, 2, 1)}),
        r"the stream gap is torch.float32 but the input is torch.float64; convert it with .to\(\)",
    ),
    "packed": (
        lambda of, x: of(torch.nn.utils.rnn.pack_sequence([x[:, 0]]), streams={"gap": x}),
        "streams do not go with a PackedSequence; give the sequences padded, with lengths=",
    ),
    "a step": (lambda of, x: of.step(x[0], streams={"gap": x}), r"is \(4, 2, 3\) but must be \(2, 5\) or \(2, 1\)"),
    "a step without": (lambda of, x: of.step(x[0]), "none were given"),
    "a cell without": (
        lambda of, x: elman.GRU(3, 5).double()(x, streams={"gap": x}),
        r"GRU: it has no streams, but \(gap\) were given; leave streams out",
    ),
    "written to": (
        lambda of, x: Recurrent(
            Cell(lambda x, R, s, u: State(h=setattr(u, "v", 1)), gates=(), streams=("v",), name="c"), 3, 5
        ),
        "the step writes to u.v; give the new value a name$",
    ),
    "not declared": (
        lambda of, x: Recurrent(Cell(lambda x, R, s, u: State(h=s.h * u.v), gates=(), name="c"), 3, 5),
        "the step reads u.v, which the cell does not declare; add 'v' to streams",
    ),
    "not used": (
        lambda of, x: Recurrent(Cell(lambda x, R, s: State(h=0.5 * s.h), gates=(), streams=("v",), name="c"), 3, 5),
        r"declares the streams \['v'\] but its step does not use u.v of them; leave them out of streams",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_named(wrong: str) -> None:
    call, message = WRONG[wrong]
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        call(recurrent(decayed_gru, 3, 5), normal(4, 2, 3, seed=0))
