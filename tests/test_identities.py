"""What must hold whatever the numbers are: one cell as a special case of another, one shape as another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, sigmoid, tanh
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

import elman
from cases import (
    CELLS,
    DEPTH_NAMES,
    DEPTHS,
    LAYERS,
    as_tuple,
    close,
    gradients,
    hidden,
    inputs,
    layer,
    normal,
    recurrent,
    run,
)
from elman import Cell, Recurrent, State

STEPS, BATCH, INPUT, HIDDEN = 6, 3, 4, 5

everywhere = pytest.mark.parametrize(("layers", "bidirectional"), DEPTHS, ids=DEPTH_NAMES)
names = pytest.mark.parametrize("name", LAYERS)


def copy_rows(source: Recurrent, target: Recurrent, rows: dict[str, tuple[str, float]]) -> None:
    """Fill target's gates from source's: target gate -> (source gate, sign). Vectors are copied where both have them."""
    with torch.no_grad():
        for name, weight in target.named_parameters():
            given = source.get_parameter(name).detach() if name in dict(source.named_parameters()) else torch.zeros(())
            if name.startswith("weight_ch"):
                weight.copy_(given)
                continue
            from_source = dict(zip(source.cell.gates, given.unflatten(0, (len(source.cell.gates), -1)), strict=True))
            blocks = [sign * from_source[gate] for gate, sign in (rows[g] for g in target.cell.gates)]
            weight.copy_(torch.cat(blocks))


def same(a: Recurrent, b: Recurrent, batch: int = BATCH) -> None:
    x, states = inputs(a, STEPS, batch)
    close(run(a, x, states), run(b, x, states))
    close(gradients(a, x, states)[: 1 + len(states)], gradients(b, x, states)[: 1 + len(states)])


# One cell as a special case of another.


@everywhere
@pytest.mark.parametrize(("peephole", "plain"), [("peephole_lstm", "lstm"), ("coupled_peephole_lstm", "coupled_lstm")])
def test_zero_peepholes_is_the_lstm(peephole: str, plain: str, layers: int, bidirectional: bool) -> None:
    options = {"num_layers": layers, "bidirectional": bidirectional}
    without, seeing = layer(plain, INPUT, HIDDEN, **options), layer(peephole, INPUT, HIDDEN, **options)
    copy_rows(without, seeing, {gate: (gate, 1.0) for gate in without.cell.gates})
    same(seeing, without)
    with torch.no_grad():
        seeing.get_parameter("weight_ch_l0")[0] = 0.5
    x, states = inputs(without, STEPS, BATCH)
    assert not torch.allclose(run(seeing, x, states)[0], run(without, x, states)[0], atol=1e-3)


@everywhere
def test_coupled_lstm_is_the_lstm_whose_input_gate_is_minus_its_forget_gate(layers: int, bidirectional: bool) -> None:
    options = {"num_layers": layers, "bidirectional": bidirectional}
    coupled, free = layer("coupled_lstm", INPUT, HIDDEN, **options), layer("lstm", INPUT, HIDDEN, **options)
    copy_rows(coupled, free, {"i": ("f", -1.0), "f": ("f", 1.0), "g": ("g", 1.0), "o": ("o", 1.0)})
    same(coupled, free)


def gru_pair(reset: float, recurrent_bias: float) -> tuple[Recurrent, Recurrent]:
    """Both GRUs with the same weights, the reset gate's input bias and the candidate's recurrent one given."""
    after, before = layer("gru", INPUT, HIDDEN), layer("gru_before", INPUT, HIDDEN)
    with torch.no_grad():
        after.get_parameter("bias_ih_l0")[:HIDDEN] = reset
        after.get_parameter("bias_hh_l0")[2 * HIDDEN :] = recurrent_bias
    before.load_state_dict(after.state_dict())
    return after, before


@pytest.mark.parametrize(
    ("reset", "recurrent_bias"),
    [(60.0, 0.0), (60.0, 0.8), (-800.0, 0.0)],
    ids=["open", "open-with-bias", "shut-without-bias"],
)
def test_grus_agree_where_the_reset_gate_is_saturated(reset: float, recurrent_bias: float) -> None:
    same(*gru_pair(reset, recurrent_bias))


@pytest.mark.parametrize(("reset", "recurrent_bias"), [(0.0, 0.0), (-800.0, 0.8)], ids=["half-open", "shut-with-bias"])
def test_grus_differ_elsewhere(reset: float, recurrent_bias: float) -> None:
    after, before = gru_pair(reset, recurrent_bias)
    x, states = inputs(after, STEPS, BATCH)
    assert (run(after, x, states)[0] - run(before, x, states)[0]).abs().max() > 0.05


@everywhere
@names
def test_no_bias_is_zero_bias(name: str, layers: int, bidirectional: bool) -> None:
    options = {"num_layers": layers, "bidirectional": bidirectional}
    without, zero = layer(name, INPUT, HIDDEN, bias=False, **options), layer(name, INPUT, HIDDEN, **options)
    assert not any("bias" in n for n, _ in without.named_parameters())
    missing = zero.load_state_dict(without.state_dict(), strict=False)
    assert all("bias" in n for n in missing.missing_keys)
    x, states = inputs(zero, STEPS, BATCH)
    assert not torch.allclose(run(zero, x, states)[0], run(without, x, states)[0], atol=1e-3)
    with torch.no_grad():
        for key, p in zero.named_parameters():
            if "bias" in key:
                p.zero_()
    same(zero, without)


# One sequence in other shapes.


@st.composite
def cut_sequences(draw: Callable[..., Any]) -> tuple[int, list[int]]:
    steps = draw(st.integers(2, 12))
    return steps, sorted(draw(st.sets(st.integers(1, steps - 1), min_size=1, max_size=4)))


def carried(of: Recurrent, x: Tensor, states: tuple[Tensor, ...], cuts: list[int]) -> tuple[Tensor, ...]:
    outputs = []
    for part in torch.tensor_split(x, cuts):
        output, *states_ = run(of, part, states)
        states = tuple(states_)
        outputs.append(output)
    return (torch.cat(outputs), *states)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("layers", [1, 2])
@names
@settings(max_examples=8)
@given(cut=cut_sequences(), seed=st.integers(0, 99))
def test_whole_sequence_is_its_carried_chunks(
    name: str, layers: int, dtype: torch.dtype, cut: tuple[int, list[int]], seed: int
) -> None:
    steps, cuts = cut
    of = layer(name, INPUT, HIDDEN, seed=seed, dtype=dtype, num_layers=layers)
    x, states = inputs(of, steps, BATCH, seed=seed)
    assert_close(carried(of, x, states, cuts), run(of, x, states))
    if dtype == torch.float64:

        class Chunked(torch.nn.Module):
            def forward(self, x: Tensor, hx: Any) -> tuple[Tensor, Any]:
                output, *final = carried(of, x, as_tuple(hx), cuts)
                return output, hidden(tuple(final))

        chunked = Chunked()
        chunked.of = of
        close(gradients(chunked, x, states), gradients(of, x, states))


@pytest.mark.parametrize("layers", [1, 2])
@names
@settings(max_examples=8)
@given(steps=st.integers(1, 7), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_batch_is_its_rows_one_by_one(name: str, layers: int, steps: int, batch: int, seed: int) -> None:
    of = layer(name, INPUT, HIDDEN, seed=seed, num_layers=layers, bidirectional=True)
    x, states = inputs(of, steps, batch, seed=seed)
    together = run(of, x, states)
    for b in range(batch):
        alone = run(of, x[:, b : b + 1], tuple(s[:, b : b + 1] for s in states))
        close(tuple(t[:, b : b + 1] for t in together), alone)
        unbatched = run(of, x[:, b], tuple(s[:, b] for s in states))
        close(tuple(t[:, b] for t in together), unbatched)


@names
def test_reversed_input_through_the_reverse_direction_is_the_reversed_output(name: str) -> None:
    both, forward = layer(name, INPUT, HIDDEN, bidirectional=True), layer(name, INPUT, HIDDEN)
    forward.load_state_dict(
        {k.removesuffix("_reverse"): v for k, v in both.state_dict().items() if k.endswith("_reverse")}
    )
    x, states = inputs(both, STEPS, BATCH)
    output, *final = run(both, x, states)
    mine, *end = run(forward, x.flip(0), tuple(s[1:] for s in states))
    close(output[:, :, mine.shape[2] :], mine.flip(0))
    close(tuple(f[1:] for f in final), tuple(end))


@names
def test_layers_are_stacked(name: str) -> None:
    """Two layers in two directions are the second bidirectional layer reading the output of the first."""
    deep = layer(name, INPUT, HIDDEN, num_layers=2, bidirectional=True)
    x, states = inputs(deep, STEPS, BATCH)
    outputs, finals = x, []
    for k in (0, 1):
        single = layer(name, outputs.shape[2], HIDDEN, bidirectional=True)
        single.load_state_dict(
            {key.replace(f"_l{k}", "_l0"): v for key, v in deep.state_dict().items() if f"_l{k}" in key}
        )
        outputs, *final = run(single, outputs, tuple(s[2 * k : 2 * k + 2] for s in states))
        finals.append(final)
    close(run(deep, x, states), (outputs, *(torch.cat(rows) for rows in zip(*finals, strict=True))))


@everywhere
@names
def test_batch_first_is_the_transposed(name: str, layers: int, bidirectional: bool) -> None:
    options = {"num_layers": layers, "bidirectional": bidirectional}
    time_first, batch_first = (
        layer(name, INPUT, HIDDEN, **options),
        layer(name, INPUT, HIDDEN, batch_first=True, **options),
    )
    x, states = inputs(time_first, STEPS, BATCH)
    output, *final = run(time_first, x, states)
    turned, *same_final = run(batch_first, x.transpose(0, 1), states)
    close(turned, output.transpose(0, 1))
    close(final, same_final)
    close(batch_first(x.transpose(0, 1))[0], time_first(x)[0].transpose(0, 1))


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@names
def test_unbatched_is_a_batch_of_one(name: str, batch_first: bool) -> None:
    of = layer(name, INPUT, HIDDEN, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, states = inputs(of, STEPS, 1)
    if batch_first:
        x = x.transpose(0, 1)
    at = 0 if batch_first else 1
    output, *final = run(of, x, states)
    unbatched, *end = run(of, x.squeeze(at), tuple(s.squeeze(1) for s in states))
    close(unbatched, output.squeeze(at))
    close(tuple(end), tuple(f.squeeze(1) for f in final))
    close(of(x.squeeze(at))[0], of(x)[0].squeeze(at))


def strided(t: Tensor) -> Tensor:
    """The same numbers, every other element of a buffer full of NaN."""
    wide = torch.full((*t.shape, 2), torch.nan, dtype=t.dtype)
    wide[..., 1] = t
    return wide[..., 1]


def transposed(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize(
    "form", [strided, transposed, lambda t: t[:1].expand_as(t)], ids=["strided", "transposed", "expanded"]
)
@names
def test_strides_do_not_matter(name: str, form: Callable[[Tensor], Tensor]) -> None:
    of = layer(name, INPUT, HIDDEN, num_layers=2, bidirectional=True)
    x, states = inputs(of, STEPS, BATCH)
    x, states = form(x), tuple(form(s) for s in states)
    assert not x.is_contiguous()
    plain = x.contiguous(), tuple(s.contiguous() for s in states)
    close(run(of, x, states), run(of, *plain))
    d = torch.autograd.grad(run(of, x.requires_grad_(), states)[0].square().sum(), [x])[0]
    leaf = plain[0].detach().requires_grad_()
    close(d, torch.autograd.grad(run(of, leaf, plain[1])[0].square().sum(), [leaf])[0])


@names
def test_nothing_is_written_over(name: str) -> None:
    of = layer(name, INPUT, HIDDEN, num_layers=2, bidirectional=True)
    x, states = inputs(of, STEPS, BATCH)
    before = [t.clone() for t in (x, *states, *of.parameters())]
    output = run(of, x, states)
    again = [t.clone() for t in output]
    run(of, x + 1, states)
    assert all(torch.equal(a, b) for a, b in zip((x, *states, *of.parameters()), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(output, again, strict=True))


# What runs a layer.


@everywhere
def test_describe(layers: int, bidirectional: bool) -> None:
    of = layer("peephole_lstm", INPUT, HIDDEN, num_layers=layers, bidirectional=bidirectional)
    x, states = inputs(of, STEPS, BATCH)
    found = elman.describe(of, x, hidden(states))
    directions = 2 if bidirectional else 1
    sizes = [INPUT, directions * HIDDEN][:layers]
    gates = 4 * HIDDEN
    assert found.parameters == sum(
        directions * (gates * size + gates * HIDDEN + 2 * gates + 3 * HIDDEN) for size in sizes
    )
    assert found.flops == sum(directions * 2 * STEPS * BATCH * gates * (size + HIDDEN) for size in sizes)
    assert [choice.engine for choice in found.engines] == ["cpu"] * (layers * directions)
    assert found.saved_bytes >= 8 * STEPS * BATCH * HIDDEN * layers * directions
    with torch.no_grad():
        assert elman.describe(of, x).saved_bytes == 0
    text = str(found)
    assert "PeepholeLSTM(4, 5" in text
    assert "cpu: kernels made from the cell's equations" in text
    assert f"{found.parameters:,}" in text
    assert f"{found.flops:,}" in text
    assert f"{found.saved_bytes:,}" in text


def test_describe_counts_every_product() -> None:
    of = layer("projected_lstm", INPUT, HIDDEN)
    gates, proj = 4 * HIDDEN, HIDDEN - 1
    flops = 2 * STEPS * BATCH * (gates * INPUT + gates * proj + proj * HIDDEN)
    assert elman.describe(of, inputs(of, STEPS, BATCH)[0]).flops == flops


def feeds_itself(x, R, s):
    return State(h=tanh(x.g + R.g @ tanh(R.g @ s.h)))


def test_describe_counts_both_products_of_one_gate() -> None:
    of = recurrent(Cell(feeds_itself, gates=("g",)), INPUT, HIDDEN)
    flops = 2 * STEPS * BATCH * HIDDEN * (INPUT + 2 * HIDDEN)
    assert elman.describe(of, inputs(of, STEPS, BATCH)[0]).flops == flops


def engine_of(of: Recurrent) -> str:
    (choice,) = elman.describe(of, inputs(of, STEPS, BATCH)[0]).engines
    return choice.engine


def test_use_engine_nests_and_is_undone() -> None:
    of = layer("lstm", INPUT, HIDDEN)
    assert engine_of(of) == "cpu"
    with elman.use_engine("native"):
        assert engine_of(of) == "native"
        with elman.use_engine("reference"):
            assert engine_of(of) == "reference"
        assert engine_of(of) == "native"
        with elman.use_engine("auto"):
            assert engine_of(of) == "cpu"
        assert engine_of(of) == "native"
    assert engine_of(of) == "cpu"
    with pytest.raises(KeyError), elman.use_engine("native"):
        raise KeyError
    assert engine_of(of) == "cpu"


def test_use_engine_holds_for_its_own_thread() -> None:
    of, seen = layer("lstm", INPUT, HIDDEN), []
    with elman.use_engine("native"):
        other = threading.Thread(target=lambda: seen.append(engine_of(of)))
        other.start()
        other.join()
    assert seen == ["cpu"]


def test_describe_says_why() -> None:
    of = layer("lstm", INPUT, HIDDEN)
    x, _ = inputs(of, STEPS, BATCH)
    assert "cpu: kernels made from the cell's equations" in str(elman.describe(of, x))
    complex_of = layer("rnn", INPUT, HIDDEN, dtype=torch.complex64)
    assert "reference: it has float16, bfloat16, float32" in str(elman.describe(complex_of, x.to(torch.complex64)))
    with elman.use_engine("native"):
        assert "native: asked for with use_engine" in str(elman.describe(of, x))


def test_unknown_engine() -> None:
    with (
        pytest.raises(ValueError, match=r"unknown engine 'fast'.*auto, reference, native, cpu"),
        elman.use_engine("fast"),
    ):
        pass


def spoken(x, R, s):
    return State(h=tanh(x.h + R.h @ s.h))


@pytest.mark.parametrize(
    "of",
    [
        layer("peephole_lstm", INPUT, HIDDEN),
        layer("coupled_lstm", INPUT, HIDDEN),
        layer("gru_before", INPUT, HIDDEN),
        recurrent(Cell(spoken, gates=("h",)), INPUT, HIDDEN),
    ],
    ids=lambda of: of.cell.name,
)
def test_a_forced_engine_does_not_fall_back(of: Recurrent) -> None:
    x, states = inputs(of, STEPS, BATCH)
    with elman.use_engine("native"):
        with pytest.raises(RuntimeError, match=f"'native' was asked for but cannot run this: .*{of.cell.name}"):
            of(x, hidden(states))
        with pytest.raises(RuntimeError, match="native"):
            elman.describe(of, x)
    run(of, x, states)


@everywhere
@pytest.mark.parametrize("name", ["rnn", "rnn_relu", "lstm", "gru", "projected_lstm"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_native_is_the_reference(name: str, layers: int, bidirectional: bool) -> None:
    of = layer(name, INPUT, HIDDEN, num_layers=layers, bidirectional=bidirectional)
    x, states = inputs(of, STEPS, BATCH)
    with elman.use_engine("native"):
        close(run(of, x, states), run_reference(of, x, states))
        mine = gradients(of, x, states)
    close(mine, gradients(of, x, states))


def run_reference(of: Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with elman.use_engine("reference"):
        return run(of, x, states)


# A trace.


def traced(name: str, layers: int = 2, bidirectional: bool = True) -> tuple[Recurrent, Tensor, tuple[Tensor, ...], Any]:
    of = layer(name, INPUT, HIDDEN, num_layers=layers, bidirectional=bidirectional)
    x, states = inputs(of, STEPS, BATCH)
    return of, x, states, elman.trace(of, x, hidden(states))


@everywhere
@names
def test_trace_is_the_layer(name: str, layers: int, bidirectional: bool) -> None:
    of, x, states, seen = traced(name, layers, bidirectional)
    results = run(of, x, states)
    close((seen.output, *as_tuple(seen.h_n)), results)
    directions = 2 if bidirectional else 1
    assert len(seen.recurrences) == layers * directions
    for row, recurrence in enumerate(seen.recurrences):
        assert tuple(recurrence.gates) == of.cell.gates
        assert tuple(recurrence.states) == of.cell.states
        last = 0 if row % directions else -1
        for state, final in zip(recurrence.states.values(), results[1:], strict=True):
            close(state[last], final[row])
        for t, step in enumerate(recurrence.steps):
            assert all(torch.equal(step[k], recurrence.states[k][t]) for k in of.cell.states)
    assert torch.equal(torch.cat([r.states["h"] for r in seen.recurrences[-directions:]], dim=2), seen.output)


@names
def test_trace_gates_are_in_their_range_and_lie_in_the_order_of_the_input(name: str) -> None:
    of, x, states, seen = traced(name)
    layer_input = x
    for row, recurrence in enumerate(seen.recurrences):
        reverse = row % 2 == 1
        for gate, value in recurrence.gates.items():
            assert value.shape == (STEPS, BATCH, HIDDEN)
            if gate in ("i", "f", "o", "r", "z"):
                assert 0 < value.min() < 0.4 < 0.6 < value.max() < 1
            else:
                assert value.min() < -0.4 or name == "rnn_relu"
        before = {
            state: torch.cat([trajectory[1:], first[None]]) if reverse else torch.cat([first[None], trajectory[:-1]])
            for (state, trajectory), first in zip(recurrence.states.items(), [s[row] for s in states], strict=True)
        }
        check_equations(of, row // 2, reverse, layer_input, recurrence, before)
        if reverse:
            layer_input = torch.cat([r.states["h"] for r in seen.recurrences[row - 1 : row + 1]], dim=2)


def check_equations(of: Recurrent, number: int, reverse: bool, x: Tensor, seen: Any, before: dict[str, Tensor]) -> None:
    """Every gate and state from the step's input and the state before it, for all steps at once."""
    W, gates, g = of.weights(number, reverse), of.cell.gates, seen.gates
    assert W.ih is not None
    assert W.hh is not None
    assert W.b_ih is not None
    assert W.b_hh is not None
    from_input = dict(zip(gates, (x @ W.ih.t() + W.b_ih).chunk(len(gates), dim=2), strict=True))
    from_state = dict(zip(gates, (before["h"] @ W.hh.t() + W.b_hh).chunk(len(gates), dim=2), strict=True))
    peep = dict(zip(of.cell.vectors, W.ch if W.ch is not None else (), strict=True))
    now = seen.states
    for gate in gates:
        pre = from_input[gate] + from_state[gate]
        if gate in peep:
            pre = pre + peep[gate] * (now["c"] if gate == "o" else before["c"])
        if of.cell.name == "gru" and gate == "n":
            pre = from_input[gate] + g["r"] * from_state[gate]
        if of.cell.name == "gru_before" and gate == "n":
            rows = slice(2 * HIDDEN, None)
            pre = from_input[gate] + (g["r"] * before["h"]) @ W.hh[rows].t() + W.b_hh[rows]
        function = torch.relu if of.cell.name == "rnn_relu" else tanh if gate in "hgn" else sigmoid
        close(g[gate], function(pre))
    if "c" in now:
        write = g["i"] if "i" in g else 1 - g["f"]
        close(now["c"], g["f"] * before["c"] + write * g["g"])
        wide = g["o"] * tanh(now["c"])
        close(now["h"], wide @ W.hr.t() if W.hr is not None else wide)
    elif "z" in g:
        close(now["h"], (1 - g["z"]) * g["n"] + g["z"] * before["h"])
    else:
        close(now["h"], g["h"])


def test_trace_of_other_shapes() -> None:
    of = layer("lstm", INPUT, HIDDEN, batch_first=True)
    x, states = inputs(of, STEPS, BATCH)
    seen = elman.trace(of, x.transpose(0, 1), hidden(states))
    assert seen.output.shape == (BATCH, STEPS, HIDDEN)
    assert torch.equal(seen.recurrences[0].states["h"], seen.output.transpose(0, 1))
    alone = elman.trace(of, x[:, 0], hidden(tuple(s[:, 0] for s in states)))
    assert alone.recurrences[0].gates["f"].shape == (STEPS, 1, HIDDEN)
    close(alone.recurrences[0].gates["f"], seen.recurrences[0].gates["f"][:, :1])


def test_trace_under_a_forced_engine() -> None:
    of, x, states, seen = traced("gru")
    with elman.use_engine("native"):
        again = elman.trace(of, x, hidden(states))
    assert torch.equal(again.recurrences[3].gates["r"], seen.recurrences[3].gates["r"])


def asks_twice(x, R, s):
    a = tanh(x.a + R.a @ s.h)
    b = sigmoid(R.a @ s.h)
    return State(h=a * b + R.a @ (a * b))


def two_gates_twice(x, R, s):
    a = tanh(x.a + R.a @ s.h) * sigmoid(x.b + R.a @ s.h)
    return State(h=tanh(R.b @ a))


@pytest.mark.parametrize(
    "cell", [Cell(asks_twice, gates=("a",)), Cell(two_gates_twice, gates=("a", "b"))], ids=["one", "two"]
)
def test_trace_of_a_cell_that_asks_for_a_product_twice(cell: Cell) -> None:
    of = recurrent(cell, INPUT, HIDDEN)
    x, states = inputs(of, STEPS, BATCH)
    seen = elman.trace(of, x, hidden(states))
    close((seen.output, *as_tuple(seen.h_n)), run(of, x, states))


def chain(rest: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """d rest / d at by central differences."""
    step, d = 1e-6, torch.zeros_like(at)
    for k in range(at.numel()):
        nudge = torch.zeros_like(at)
        nudge.view(-1)[k] = step
        d.view(-1)[k] = (rest(at + nudge) - rest(at - nudge)) / (2 * step)
    return d


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("name", "state"), [("gru", "h"), ("lstm", "h"), ("lstm", "c"), ("peephole_lstm", "h"), ("peephole_lstm", "c")]
)
def test_gradient_at_a_step_of_the_trace(name: str, state: str, reverse: bool) -> None:
    """Of a loss on the last step read, with respect to one state of an earlier step."""
    of, x, _, seen = traced(name, layers=1)
    steps = seen.recurrences[int(reverse)].steps
    half = slice(HIDDEN, None) if reverse else slice(0, HIDDEN)
    weight = normal(BATCH, HIDDEN, seed=9)
    loss = (seen.output[0 if reverse else -1][:, half] * weight).sum()
    alone = layer(name, INPUT, HIDDEN)
    suffix = "_l0_reverse" if reverse else "_l0"
    alone.load_state_dict({k.replace(suffix, "_l0"): v for k, v in of.state_dict().items() if k.endswith(suffix)})
    for t in (1, 3, 4):
        (d,) = torch.autograd.grad(loss, [steps[t][state]], retain_graph=True)
        after = x[:t].flip(0) if reverse else x[t + 1 :]
        values = {k: v.detach() for k, v in steps[t].items()}
        o = seen.recurrences[int(reverse)].gates["o"][t].detach() if state == "c" else None
        peephole = alone.get_parameter("weight_ch_l0")[2].detach() if name == "peephole_lstm" else torch.zeros(HIDDEN)

        @torch.no_grad()
        def rest(value: Tensor, values=values, after=after, o=o, peephole=peephole) -> Tensor:
            changed = values | {state: value}
            if o is not None:  # c_t reaches the loss through h_t as well
                changed["h"] = sigmoid(o.logit() + peephole * (value - values["c"])) * tanh(value)
            return (run(alone, after, tuple(changed[k][None] for k in of.cell.states))[0][-1] * weight).sum()

        assert d.abs().max() > 1e-4
        assert_close(d, chain(rest, values[state]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("lengths", [[2, 5, 3, 3], [5, 3, 3, 2]], ids=["unsorted", "sorted"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_trace_of_a_packed_sequence(lengths: list[int], batch_first: bool) -> None:
    """It is that of the padded sequences, in the caller's order, and its output is packed like the layer's."""
    of = layer("gru", 3, 4, bidirectional=True, batch_first=batch_first)
    x = normal(4, 5, 3, seed=1) if batch_first else normal(5, 4, 3, seed=1)
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=lengths[0] == 5)
    found, padded = elman.trace(of, packed), elman.trace(of, x, lengths=lengths)
    output, h_n = of(packed)
    close([found.output.data, found.h_n], [output.data, h_n])
    assert all(a is b or torch.equal(a, b) for a, b in zip(found.output[1:], output[1:], strict=True))
    for mine, theirs in zip(found.recurrences, padded.recurrences, strict=True):
        close([*mine.gates.values(), *mine.states.values()], [*theirs.gates.values(), *theirs.states.values()])
    with pytest.raises(TypeError, match="brings its own lengths"):
        elman.trace(of, packed, lengths=lengths)


def test_gradient_at_a_step_passes_through_the_layer_above() -> None:
    """The first layer's h_t reaches the loss through its own next step and through the second layer."""
    of, x, states, seen = traced("gru", bidirectional=False)
    weight = normal(BATCH, HIDDEN, seed=9)
    first, second = layer("gru", INPUT, HIDDEN), layer("gru", HIDDEN, HIDDEN)
    first.load_state_dict({k: v for k, v in of.state_dict().items() if "_l0" in k})
    second.load_state_dict({k.replace("_l1", "_l0"): v for k, v in of.state_dict().items() if "_l1" in k})
    t = 2
    (d,) = torch.autograd.grad((seen.output[-1] * weight).sum(), [seen.recurrences[0].steps[t]["h"]])
    earlier = seen.recurrences[0].states["h"][:t].detach()

    @torch.no_grad()
    def rest(h_t: Tensor) -> Tensor:
        later = run(first, x[t + 1 :], (h_t[None],))[0]
        output = run(second, torch.cat([earlier, h_t[None], later]), (states[0][1:],))[0]
        return (output[-1] * weight).sum()

    assert_close(d, chain(rest, seen.recurrences[0].steps[t]["h"].detach()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CELLS)
def test_gradients_through_a_trace_are_the_layers(name: str) -> None:
    of, x, states, _ = traced(name)

    class Traced(torch.nn.Module):
        def forward(self, x: Tensor, hx: Any) -> tuple[Tensor, Any]:
            seen = elman.trace(of, x, hx)
            return seen.output, seen.h_n

    watched = Traced()
    watched.of = of
    close(gradients(watched, x, states), gradients(of, x, states))
