"""Engine `cpu` against the reference engine: sizes, memory layouts, gradients, special values, threads, refusals."""

from __future__ import annotations

import copy
import re
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn, sigmoid, tanh
from torch.func import functional_call

import elman
from cases import CELLS, DEPTH_NAMES, DEPTHS, as_tuple, close, gradients, hidden, inputs, layer, normal, recurrent, run
from elman import Cell, Recurrent, State, cells, operators
from elman.cpu import system
from elman.cpu.layer import inference, kernel_tasks, large_products
from elman.cpu.scripts import memory, threads
from elman.layout import Call
from elman.names import register
from forks import Child, Forks
from settings import setting, shared_units, two_threads
from test_cpu_memory import allocating

names = pytest.mark.parametrize("name", CELLS)


def by(engine: str, call: Callable[[], Any]) -> Any:
    with elman.use_engine(engine):
        return call()


def everything(of: Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Results of inference, of training, and all gradients."""
    with torch.no_grad():
        inferred = run(of, x, states)
    return (*inferred, *(r.detach() for r in run(of, x, states)), *gradients(of, x, states))


def same(of: Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> None:
    close(by("cpu", lambda: everything(of, x, states)), by("reference", lambda: everything(of, x, states)))


# Sizes.

SIZES = [  # T, B, I, H: below, at and above one vector of 8 and several; rows that fill their tiles and do not
    (1, 1, 1, 1),
    (3, 1, 1, 2),
    (2, 2, 3, 7),
    (1, 5, 4, 8),
    (5, 6, 1, 9),
    (2, 7, 5, 15),
    (3, 13, 2, 16),
    (4, 1, 3, 17),
    (2, 3, 3, 31),
    (9, 2, 40, 33),
    (2, 12, 1, 64),
    (3, 25, 2, 67),
]


@pytest.mark.parametrize("number", range(len(SIZES)), ids=lambda number: "x".join(map(str, SIZES[number])))
@names
def test_equals_the_reference(name: str, number: int) -> None:
    steps, batch, size, units = SIZES[number]
    of = layer(name, size, units, bidirectional=number % 2 == 1, bias=number % 3 != 1, seed=number)
    same(of, *inputs(of, steps, batch, seed=number))


@pytest.mark.parametrize(("layers", "bidirectional"), DEPTHS, ids=DEPTH_NAMES)
@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
@names
def test_layers_equal_the_reference(name: str, batch_first: bool, layers: int, bidirectional: bool) -> None:
    of = layer(name, 4, 10, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first)
    x, states = inputs(of, 5, 3)
    same(of, x.transpose(0, 1) if batch_first else x, states)


def test_a_long_sequence_in_chunks() -> None:
    """In inference the input's share is made for some steps at a time: results do not show where it was cut."""
    for name in ("lstm", "gru_before"):
        of = layer(name, 3, 5, bidirectional=True)
        x, states = inputs(of, 29, 2)
        with torch.no_grad():
            exact = by("reference", lambda of=of, x=x, states=states: run(of, x, states))
            for bytes_ in (1, 5 * 2 * 20 * 8, 7 * 2 * 20 * 8):
                for chunks in (1, 2, 100):
                    with setting(inference, SHARE_BYTES=bytes_, CHUNKS=chunks):
                        close(by("cpu", lambda of=of, x=x, states=states: run(of, x, states)), exact)


@pytest.mark.parametrize("units", [5, 16], ids=["ragged", "whole"])
@pytest.mark.parametrize("name", ["lstm", "gru", "gru_before", "peephole_lstm"])
def test_long_gradients_in_chunks(name: str, units: int) -> None:
    """Gradients of weights are added up over chunks of steps and rows, wherever these begin."""
    of = layer(name, 16, units, bidirectional=True)
    x, states = inputs(of, 11, 3)
    exact = by("reference", lambda: everything(of, x, states))
    for chunk, chunks in ((1, 100), (2, 100), (4, 100), (5, 2), (33, 1)):
        with setting(large_products, CHUNK=chunk, CHUNKS=chunks):
            close(by("cpu", lambda: everything(of, x, states)), exact)


# Memory layouts. Every gap is NaN.


def strided(t: Tensor) -> Tensor:
    wide = torch.full((*t.shape, 2), torch.nan, dtype=t.dtype)
    wide[..., 1] = t
    return wide[..., 1]


def with_gaps_between_rows(t: Tensor) -> Tensor:
    wide = torch.full((*t.shape[:-1], t.shape[-1] + 3), torch.nan, dtype=t.dtype)
    wide[..., 1:-2] = t
    return wide[..., 1:-2]


def transposed(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def plain(t: Tensor) -> Tensor:
    return t


@pytest.mark.parametrize("units", [1, 6], ids=["one-unit", "six-units"])
@pytest.mark.parametrize("form", [strided, with_gaps_between_rows, transposed])
@names
def test_layout_of_inputs_states_weights_and_cotangents(
    name: str, form: Callable[[Tensor], Tensor], units: int
) -> None:
    of = layer(name, 5, units, bidirectional=True)
    x, states = inputs(of, 4, 3)
    parameters = dict(of.named_parameters())

    def results(form: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        leaves = [value.detach().clone().requires_grad_() for value in (x, *states, *parameters.values())]
        formed = [form(leaf) for leaf in leaves]
        given = dict(zip(parameters, formed[1 + len(states) :], strict=True))
        output, h_n = functional_call(of, given, (formed[0], hidden(tuple(formed[1 : 1 + len(states)]))))
        found = (output, *as_tuple(h_n))
        cotangents = [form(normal(*r.shape, seed=k)) for k, r in enumerate(found)]
        return (*found, *torch.autograd.grad(found, leaves, cotangents))

    close(by("cpu", lambda: results(form)), by("reference", lambda: results(plain)))


@names
def test_expanded_inputs_and_states(name: str) -> None:
    of = layer(name, 5, 6, bidirectional=True)
    x, states = inputs(of, 4, 3)
    same(of, x[:1, :1].expand(4, 3, 5), tuple(s[:, :1].expand(-1, 3, -1) for s in states))
    same(of, x[..., :1].expand_as(x), tuple(s[:1, :1, :1].expand_as(s) for s in states))


LOSSES: dict[str, Callable[[Tensor, tuple[Tensor, ...]], Tensor]] = {
    "sum of the output": lambda output, finals: output.sum(),
    "last output": lambda output, finals: output[-1].square().sum(),
    "one sequence": lambda output, finals: output[:, 1].square().sum(),
    "every other unit": lambda output, finals: output[:, :, ::2].square().sum(),
    "output read twice": lambda output, finals: (output * output.flip(0)).sum(),
    "transposed": lambda output, finals: (
        output.transpose(0, 1).reshape(-1) @ torch.arange(output.numel(), dtype=output.dtype)
    ),
    "first final state only": lambda output, finals: finals[0].square().sum(),
    "last final state only": lambda output, finals: finals[-1].square().sum(),
    "sum of the last final state": lambda output, finals: finals[-1].sum(),
    "all final states": lambda output, finals: sum(
        ((k + 1) * f.square().sum() for k, f in enumerate(finals)), output.new_zeros(())
    ),
    "final state of the reverse direction": lambda output, finals: finals[0][1].square().sum(),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["rnn", "lstm", "peephole_lstm", "gru_before"])
def test_losses_that_use_a_part_of_the_results(name: str, loss: str) -> None:
    of = layer(name, 3, 9, bidirectional=True)
    x, states = inputs(of, 4, 3)

    def d() -> tuple[Tensor, ...]:
        leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
        output, *finals = run(of, leaves[0], tuple(leaves[1:]))
        value = LOSSES[loss](output, tuple(finals))
        return torch.autograd.grad(value, [*leaves, *of.parameters()], allow_unused=True, materialize_grads=True)

    close(by("cpu", d), by("reference", d))


# Gradients that nobody asked for.


@pytest.mark.parametrize("name", ["lstm", "peephole_lstm", "gru_before"])
def test_only_what_requires_a_gradient_gets_one(name: str) -> None:
    of = layer(name, 3, 9, bidirectional=True)
    x, states = inputs(of, 4, 3)
    tensors = {"x": x, **{f"state {k}": s for k, s in enumerate(states)}, **dict(of.named_parameters())}
    every = dict(zip(tensors, by("reference", lambda: gradients(of, x, states)), strict=True))
    for wanted in ([key] for key in tensors):
        leaves = {key: value.detach().clone().requires_grad_(key in wanted) for key, value in tensors.items()}
        given = {key: leaves[key] for key, _ in of.named_parameters()}
        with elman.use_engine("cpu"):
            initial = tuple(leaves[f"state {k}"] for k in range(len(states)))
            output, h_n = functional_call(of, given, (leaves["x"], hidden(initial)))
        results = (output, *as_tuple(h_n))
        sum(((r * normal(*r.shape, seed=7 + k)).sum() for k, r in enumerate(results)), torch.zeros(())).backward()
        for key, leaf in leaves.items():
            if key in wanted:
                assert leaf.grad is not None
                close(leaf.grad, every[key])
            else:
                assert leaf.grad is None


def operands(of: Recurrent, steps: int = 4, batch: int = 3) -> tuple[Any, ...]:
    """What the operators are called with for the first layer."""
    x, states = inputs(of, steps, batch)
    call = of.call(0, x, states)
    return operators.arguments("cpu", call.replaced([t if t is None else t.detach() for t in call.tensors()]))


def test_what_is_not_needed_is_not_computed() -> None:
    of = layer("peephole_lstm", 3, 9, bidirectional=True)
    x, states = inputs(of, 4, 3)
    call = of.call(0, x, states)
    arguments, sources = operators.arguments("cpu", call), call.tensors()
    with torch.no_grad():
        output, *rest = torch.ops.elman.forward(*arguments)
        finals, saved = rest[: len(states)], rest[len(states) :]
        cotangents = [torch.ones_like(r) for r in (output, *finals)]
        given = [True] * len(cotangents)
        every = torch.ops.elman.backward(*arguments, output, saved, cotangents, given, [t is not None for t in sources])
        for k, source in enumerate(sources):
            needed = [j == k and source is not None for j in range(len(sources))]
            found = torch.ops.elman.backward(*arguments, output, saved, cotangents, given, needed)
            if source is not None:
                assert every[k].shape == source.shape
                assert torch.equal(found[k], every[k])
            assert [t for j, t in enumerate(found) if j != k] == [None] * (len(sources) - 1)


def test_twice_through_one_graph() -> None:
    of = layer("lstm", 3, 9, bidirectional=True)
    x, states = inputs(of, 4, 3)
    with elman.use_engine("cpu"):
        results = run(of, x, states)
        loss = sum(((k + 1) * r.square().sum() for k, r in enumerate(results)), torch.zeros(()))
        first = torch.autograd.grad(loss, list(of.parameters()), retain_graph=True)
        run(of, x + 1, states)  # something else in between
        gradients(of, x - 1, states)
        second = torch.autograd.grad(loss, list(of.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_output_that_was_written_over_is_noticed() -> None:
    of = layer("gru", 3, 4)
    with elman.use_engine("cpu"):
        output, _ = of(inputs(of, 4, 3)[0])
    loss = output.sum()
    with torch.no_grad():
        output.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# Special values.


def one_row(value: float) -> Callable[[Tensor, tuple[Tensor, ...], Recurrent], None]:
    def plant(x: Tensor, states: tuple[Tensor, ...], of: Recurrent) -> None:
        x[1, 2, 0] = value

    return plant


def everywhere(value: float) -> Callable[[Tensor, tuple[Tensor, ...], Recurrent], None]:
    def plant(x: Tensor, states: tuple[Tensor, ...], of: Recurrent) -> None:
        x.copy_(torch.where(x > 0, value, -value))

    return plant


def in_a_state(value: float) -> Callable[[Tensor, tuple[Tensor, ...], Recurrent], None]:
    def plant(x: Tensor, states: tuple[Tensor, ...], of: Recurrent) -> None:
        states[-1][0, 2, 3] = value

    return plant


def large_weights(x: Tensor, states: tuple[Tensor, ...], of: Recurrent) -> None:
    with torch.no_grad():
        for p in of.parameters():
            p.mul_(1e3)


PLANTED = {
    "nan": one_row(float("nan")),
    "inf": one_row(float("inf")),
    "minus inf": one_row(-float("inf")),
    "large": one_row(1e30),
    "large everywhere": everywhere(1e6),
    "inf everywhere": everywhere(float("inf")),
    "nan in a state": in_a_state(float("nan")),
    "inf in a state": in_a_state(float("inf")),
    "large in a state": in_a_state(-1e30),
    "large weights": large_weights,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("planted", PLANTED)
@names
def test_special_values_are_the_references(name: str, planted: str, dtype: torch.dtype) -> None:
    of = layer(name, 3, 17, dtype=dtype)
    x, states = inputs(of, 3, 4)
    PLANTED[planted](x, states, of)
    found, exact = (by(engine, lambda: everything(of, x, states)) for engine in ("cpu", "reference"))
    rtol = 1e-3 if dtype == torch.float32 else 1e-9
    for mine, reference in zip(found, exact, strict=True):
        assert torch.equal(mine.isnan(), reference.isnan())
        assert torch.equal(mine.isinf(), reference.isinf())
        finite = reference.isfinite()
        size = reference[finite].abs().max().item() if finite.any() else 1.0
        torch.testing.assert_close(mine, reference, rtol=rtol, atol=rtol * min(size, 1e30), equal_nan=True)


def test_a_nan_in_a_maximum_goes_back_as_in_torch() -> None:
    def step(x, R, s):
        return State(h=torch.maximum(x.a, s.h) + torch.minimum(x.b, R.b @ s.h))

    of = recurrent(Cell(step, gates=("a", "b")), 3, 5)
    x, states = inputs(of, 4, 6)
    x[2, 1], states[0][0, 3, 2] = torch.nan, torch.nan
    mine, exact = (by(engine, lambda: everything(of, x, states)) for engine in ("cpu", "reference"))
    torch.testing.assert_close(mine, exact, rtol=1e-10, atol=1e-12, equal_nan=True)


def test_an_overflow_does_not_wake_a_dead_unit() -> None:
    """relu passes nothing on where it is zero, and the infinite gradient of the other unit is none of the first one's."""
    of = elman.RNN(1, 2, nonlinearity="relu", bias=False)
    with torch.no_grad():
        for p, value in zip(of.parameters(), ([[1.0], [-1.0]], [[0.5, 3e38], [0.0, 0.5]]), strict=True):
            p.copy_(torch.tensor(value))
    theirs = torch.nn.RNN(1, 2, nonlinearity="relu", bias=False)
    theirs.load_state_dict(of.state_dict())
    x = torch.ones(4, 1, 1, requires_grad=True)
    mine, exact = (
        torch.autograd.grad(by("cpu", lambda r=r: r(x))[0].sum(), [x, *r.parameters()]) for r in (of, theirs)
    )
    assert all(d.isfinite().all() for d in exact)
    torch.testing.assert_close(mine, exact)


@pytest.mark.parametrize("function", [torch.maximum, torch.minimum])
def test_an_overflow_stays_with_the_larger_number(function: Any) -> None:
    def step(x, R, s):
        a, b = x.a - 2 * sign, x.b + 2 * sign  # a is not what comes out
        return State(h=function(a, b) * 1e30 * (1e30 + 0 * s.h))

    sign = 1 if function is torch.maximum else -1
    of = recurrent(Cell(step, gates=("a", "b")), 3, 5, dtype=torch.float32)
    x, states = 0.1 * torch.ones(1, 2, 3), (torch.zeros(1, 2, 5),)
    with torch.no_grad():
        next(of.parameters()).mul_(0.1)
    mine, exact = (by(engine, lambda: gradients(of, x, states)) for engine in ("cpu", "reference"))
    assert exact[0].isnan().all()
    assert exact[2].isfinite().any()
    torch.testing.assert_close(mine, exact, equal_nan=True)


@names
def test_a_nan_stays_in_its_row(name: str) -> None:
    of = layer(name, 3, 17, dtype=torch.float32, bidirectional=True)
    x, states = inputs(of, 5, 7)
    leaf = x.clone()
    leaf[2, 3] = torch.nan
    leaf.requires_grad_()
    with elman.use_engine("cpu"):
        results = run(of, leaf, states)
        loss = sum(
            ((r * normal(*r.shape, seed=k, dtype=r.dtype)).sum() for k, r in enumerate(results)), torch.zeros(())
        )
        (d,) = torch.autograd.grad(loss, [leaf])
        clean = run(of, x, states)
    others = [row for row in range(7) if row != 3]
    assert results[0][2, 3].isnan().all()
    assert torch.equal(results[0][:, others], clean[0][:, others])
    assert d[:, others].isfinite().all()
    assert name == "rnn_relu" or d[2, 3].isnan().all()


def test_denormal_arithmetic_is_as_before() -> None:
    small = torch.full((64,), 1e-40)
    for name in ("lstm", "gru_before"):
        of = layer(name, 3, 17, dtype=torch.float32, bidirectional=True)
        x, states = inputs(of, 5, 7)
        by("cpu", lambda of=of, x=x, states=states: everything(of, x, states))
        assert (small * 1).count_nonzero() == 64
        assert 5e-324 * 1.0 > 0
        with two_threads():
            by("cpu", lambda of=of, x=x, states=states: everything(of, x, states))
            large = torch.full((1 << 18,), 1e-40)  # enough for torch to use both
            assert (large * 1).count_nonzero() == large.numel()


# The same bits.


# Every three of the four choices meet in every way.
@pytest.mark.parametrize(
    ("name", "sizes", "bidirectional", "dtype"),
    [
        (name, sizes, bidirectional, (torch.float32, torch.float64)[(k + n + bidirectional) % 2])
        for k, name in enumerate(("lstm", "gru_before"))
        for n, sizes in enumerate(((5, 7, 9, 33), (20, 64, 64, 128), (3, 1000, 16, 16), (100, 1, 64, 256)))
        for bidirectional in (False, True)
    ],
    ids=str,
)
def test_threads_do_not_change_a_bit(
    name: str,
    sizes: tuple[int, int, int, int],
    bidirectional: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps, batch, size, units = sizes
    of = layer(name, size, units, bidirectional=bidirectional, dtype=dtype)
    x, states = inputs(of, steps, batch)
    alone = by("cpu", lambda: everything(of, x, states))
    again = by("cpu", lambda: everything(of, x, states))
    teams: list[int] = []
    parallel = system.parallel()

    def watched(function: int, data: int, team: int, flags: int) -> None:
        teams.append(team)
        parallel(function, data, team, flags)

    monkeypatch.setattr(system, "parallel", lambda: watched)
    with two_threads():
        together = by("cpu", lambda: everything(of, x, states))
    assert set(teams) == {2}
    keys = ["output", "finals", "d x", "d states", *(f"d {key}" for key, _ in of.named_parameters())]
    count = len(states)
    order = [0, *([1] * count), 0, *([1] * count), 2, *([3] * count), *range(4, len(keys))]
    for which, other in (("a second call", again), ("two threads", together)):
        changed = [keys[k] for k, a, b in zip(order, alone, other, strict=True) if not torch.equal(a, b)]
        assert not changed, f"changed by {which}: {changed}"


@pytest.mark.parametrize("sizes", [(40, 1, 3, 40), (9, 3, 2, 131), (5, 2, 4, 7)], ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("name", ["lstm", "peephole_lstm", "gru_before", "projected_lstm"])
def test_few_rows_share_units(name: str, sizes: tuple[int, int, int, int]) -> None:
    """Where there are fewer rows than pay, threads take units and meet after every phase; of a narrow one some have none."""
    steps, batch, size, units = sizes
    narrow = {"proj_size": 3} if name == "projected_lstm" else {}
    for bidirectional in (False, True):
        of = layer(name, size, units, bidirectional=bidirectional, dtype=torch.float32, **narrow)
        x, states = inputs(of, steps, batch)
        alone = by("cpu", lambda of=of, x=x, states=states: everything(of, x, states))
        before = torch.get_num_threads()
        try:
            for count in (2, 4):
                torch.set_num_threads(count)
                with shared_units():
                    together = by("cpu", lambda of=of, x=x, states=states: everything(of, x, states))
                assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)), (bidirectional, count)
        finally:
            torch.set_num_threads(before)


def test_a_team_that_is_smaller_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP may give fewer threads; who has to meet others then does not begin."""
    of = layer("gru_before", 3, 40, bidirectional=True)
    x, states = inputs(of, 9, 1)
    alone = by("cpu", lambda: everything(of, x, states))
    parallel = system.parallel()
    monkeypatch.setattr(system, "parallel", lambda: lambda function, data, team, flags: parallel(function, data, 1, 0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    with setting(kernel_tasks, MEETING=0), setting(threads, SHARED_FROM=0):
        together = by("cpu", lambda: everything(of, x, states))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
@names
def test_inference_is_training_to_the_bit(name: str, bidirectional: bool) -> None:
    inferred_as_trained(layer(name, 5, 33, bidirectional=bidirectional, dtype=torch.float32))


def inferred_as_trained(of: Recurrent) -> None:
    for steps, batch in ((1, 1), (7, 1), (5, 7), (1, 3), (3, 24)):
        x, states = inputs(of, steps, batch)
        with elman.use_engine("cpu"):
            trained = run(of, x, states)
            with torch.no_grad():
                inferred = run(of, x, states)
        assert all(torch.equal(a, b) for a, b in zip(trained, inferred, strict=True)), (steps, batch)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "gru_before"])
def test_rows_of_a_batch_do_not_depend_on_each_other_to_the_bit(name: str) -> None:
    of = layer(name, 16, 33, dtype=torch.float32)
    with elman.use_engine("cpu"), torch.no_grad():
        for steps, batch in ((9, 7), (11, 24), (10, 2), (9, 9)):  # all longer than what reads weights as they lie
            x, states = inputs(of, steps, batch)
            whole = run(of, x, states)
            for rows in (slice(0, 1), slice(1, 2), slice(0, batch // 2 + 1), slice(batch // 3, batch)):
                part = run(of, x[:, rows], tuple(s[:, rows] for s in states))
                assert all(torch.equal(w[:, rows], p) for w, p in zip(whole, part, strict=True)), (steps, batch, rows)


def test_sizes_that_grow_and_shrink() -> None:
    """Workspaces are kept from call to call; what an earlier call left in them must not be read."""
    order = [(3, 2, 5), (9, 13, 40), (1, 1, 1), (2, 5, 16), (9, 13, 40), (3, 2, 5)]
    memory.of_thread.workspace.clear()
    for name in ("peephole_lstm", "gru_before", "rnn"):
        for steps, batch, units in order:
            of = layer(name, 3, units, bidirectional=units != 16)
            same(of, *inputs(of, steps, batch))


def test_two_callers_at_once() -> None:
    cases = []
    for number, (name, steps, batch, units) in enumerate([("lstm", 9, 5, 20), ("lstm", 4, 12, 33), ("gru", 6, 7, 20)]):
        of = layer(name, 4, units, seed=number, bidirectional=True)
        x, states = inputs(of, steps, batch, seed=number)
        cases.append((of, x, states, by("reference", lambda of=of, x=x, states=states: everything(of, x, states))))
    wrong: list[BaseException] = []

    def caller(of: Recurrent, x: Tensor, states: tuple[Tensor, ...], exact: Any) -> None:
        try:
            for _ in range(25):
                close(by("cpu", lambda: everything(of, x, states)), exact)
        except BaseException as error:
            wrong.append(error)

    callers = [threading.Thread(target=caller, args=case) for case in cases]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert not wrong, wrong[0]


def test_inference_mode_and_training_in_turn() -> None:
    of = layer("lstm", 3, 9, bidirectional=True)
    x, states = inputs(of, 4, 3)
    exact = by("reference", lambda: everything(of, x, states))
    for first in (True, False):
        memory.of_thread.workspace.clear()
        for without in (first, not first, first):
            with elman.use_engine("cpu"):
                if without:
                    with torch.inference_mode():
                        results = run(of, x, states)
                    assert results[0].is_inference()
                    close(tuple(r.clone() for r in results), exact[:3])
                else:
                    close(everything(of, x, states), exact)


FORK = """
import os, signal, sys, time
import torch, elman
from cases import gradients, inputs, layer
from elman.cpu.scripts import threads
threads.SHARED_FROM = 0
of = layer("lstm", 3, 9, bidirectional=True)
x, states = inputs(of, 4, 6)
torch.set_num_threads(2)
with elman.use_engine("cpu"):
    before = gradients(of, x, states)
    assert threads.available() == 2
    child = os.fork()
    if child == 0:
        after = gradients(of, x, states)
        os._exit(0 if all(torch.equal(a, b) for a, b in zip(before, after)) else 3)
    for _ in range(300):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            sys.exit(os.waitstatus_to_exitcode(status))
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    sys.exit("the child hangs")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has run OpenMP, as on Linux")
def test_a_forked_child_does_not_hang(forks: Forks) -> None:
    (done,) = forks.run(Child(FORK), timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


# What inference keeps.


def test_inference_keeps_nothing() -> None:
    of = layer("peephole_lstm", 3, 9, num_layers=2, bidirectional=True)
    x, states = inputs(of, 4, 3)
    with elman.use_engine("cpu"):
        assert elman.describe(of, x, hidden(states)).saved_bytes > 0
        with torch.no_grad():
            assert elman.describe(of, x, hidden(states)).saved_bytes == 0
            assert run(of, x, states)[0].grad_fn is None
        frozen = of.requires_grad_(False)
        assert elman.describe(frozen, x, hidden(states)).saved_bytes == 0
        assert run(frozen, x, states)[0].grad_fn is None


@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_memory_of_inference_does_not_grow_with_the_sequence(name: str) -> None:
    """Beyond the output: what the input gives to the gates is made for a part of the steps at a time."""
    of = layer(name, 2, 64, dtype=torch.float32)
    beyond = []
    for steps in (2500, 5000):
        x, states = inputs(of, steps, 8)
        sizes: list[int] = []

        def counting(shape: Sequence[int], dtype: torch.dtype, sizes: list[int] = sizes) -> Tensor:
            sizes.append(torch.Size(shape).numel() * dtype.itemsize)
            return torch.empty(shape, dtype=dtype)

        with allocating(counting), elman.use_engine("cpu"), torch.no_grad():
            output = run(of, x, states)[0]
        assert output.nbytes in sizes
        beyond.append(sum(sizes) - output.nbytes)
    assert beyond[0] == beyond[1] < 12 << 20


# Refusals: what the engine cannot run, the reference engine does, and `describe` says why.


def unknown_function(x, R, s):
    return State(h=torch.sin(x.a + R.a @ s.h))


def engine_and_reason(of: Recurrent, x: Tensor) -> tuple[str, str]:
    with torch.no_grad():
        (choice,) = elman.describe(of, x).engines
    return choice.engine, choice.why


@pytest.mark.filterwarnings("ignore::elman.SlowCellWarning")
def test_an_unknown_function_is_named() -> None:
    of = recurrent(Cell(unknown_function, gates=("a",)), 3, 4)
    x, states = inputs(of, 5, 2)
    engine, why = engine_and_reason(of, x)
    assert engine == "reference"
    assert "the step calls sin, which a graph does not know" in why
    h, outputs, w = states[0][0], [], {name: p.detach() for name, p in of.named_parameters()}
    for x_t in x:  # it runs, and its numbers are those of the equation
        pre = x_t @ w["weight_ih_l0"].T + w["bias_ih_l0"] + h @ w["weight_hh_l0"].T + w["bias_hh_l0"]
        h = torch.sin(pre)
        outputs.append(h)
    close(run(of, x, states), (torch.stack(outputs), h.unsqueeze(0)))
    with elman.use_engine("cpu"), pytest.raises(RuntimeError, match=r"'cpu' was asked for but .* the step calls sin"):
        of(x)


def test_complex_numbers_are_refused() -> None:
    of, x = layer("rnn", 3, 4, dtype=torch.complex64), normal(5, 2, 3, seed=0).to(torch.complex64)
    engine, why = engine_and_reason(of, x)
    assert engine == "reference"
    assert "the input is torch.complex64" in why
    assert of(x)[0].isfinite().all()
    with elman.use_engine("cpu"), pytest.raises(RuntimeError, match=r"the input is torch.complex64"):
        of(x)


def typed(values: Any) -> list[torch.dtype]:
    return [value.dtype for value in values]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["lstm", "projected_lstm", "gru_before"])
def test_half_types_are_computed_in_float32(name: str, autocast: bool) -> None:
    """Results are those of the same numbers in float32, rounded once. Every type is that of the step itself."""
    dtype = torch.float32 if autocast else torch.bfloat16
    of = layer(name, 3, 19, bidirectional=True, learn_initial_state=True, dtype=dtype)
    x, lengths = normal(6, 4, 3, seed=0, dtype=dtype).requires_grad_(), [6, 0, 3, 1]
    found = {}
    for engine in ("auto", "cpu", "reference"):
        with elman.use_engine(engine), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert elman.describe(of, x).engines[0].engine == engine.replace("auto", "cpu")
            output, h_n = of(x, lengths=lengths)
            finals = as_tuple(h_n)
            d_output = normal(*output.shape, seed=1, dtype=output.dtype)
            sources = [x, *of.parameters()]
            gradients = torch.autograd.grad((output, *finals), sources, (d_output, *map(torch.ones_like, finals)))
            with torch.no_grad():
                step = of.step(x[0]) if not of.bidirectional else of(x[:1])
            found[engine] = (output, *finals, *gradients, step[0], *as_tuple(step[1]))
    assert typed(found["cpu"]) == typed(found["auto"]) == typed(found["reference"])
    assert all(map(torch.equal, found["cpu"], found["auto"]))
    single = copy.deepcopy(of).float()
    output, h_n = single(x.float(), lengths=lengths)
    for mine, exact in zip(found["cpu"], (output, *as_tuple(h_n)), strict=False):
        assert torch.equal(mine, exact.to(mine.dtype))


def test_transforms_are_refused_and_right_on_the_reference() -> None:
    """Next to what the kernels give without a transform: values one by one, gradients, differences."""
    of = layer("lstm", 3, 4)
    x = normal(5, 2, 3, seed=0)
    parameters = {key: p.detach() for key, p in of.named_parameters()}

    def output(x: Tensor) -> Tensor:
        return functional_call(of, parameters, (x,))[0]

    def forward_mode() -> Any:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            return torch.autograd.forward_ad.unpack_dual(output(dual))

    leaf = x.clone().requires_grad_()
    values = by("cpu", lambda: output(x))
    (d_x,) = torch.autograd.grad(by("cpu", lambda: output(leaf)).sum(), leaf)
    tangent = by("cpu", lambda: (output(x + 1e-5) - output(x - 1e-5)) / 2e-5)
    cases: dict[str, tuple[Callable[[], Any], Any]] = {
        "vmap": (
            lambda: torch.vmap(output)(torch.stack([x, x + 1])),
            torch.stack([values, by("cpu", lambda: output(x + 1))]),
        ),
        "jvp": (lambda: torch.func.jvp(output, (x,), (torch.ones_like(x),)), (values, tangent)),
        "grad": (lambda: torch.func.grad(lambda x: output(x).sum())(x), d_x),
        "vjp": (lambda: torch.func.vjp(output, x)[1](torch.ones(5, 2, 4, dtype=torch.float64))[0], d_x),
        "forward mode": (lambda: tuple(forward_mode()), (values, tangent)),
    }
    for name, (call, expected) in cases.items():
        with elman.use_engine("cpu"), pytest.raises(RuntimeError, match="transforms need operations they can see into"):
            call()
        torch.testing.assert_close(call(), expected, rtol=1e-8, atol=1e-9, msg=name)
    assert tangent.abs().max() > 0.1
    assert engine_and_reason(of, x)[0] == "cpu"


@pytest.mark.filterwarnings("ignore::elman.SlowCellWarning")
def test_a_step_that_decides_is_refused() -> None:
    def decides(x, R, s):
        return State(h=tanh(x.a) if bool((s.h > 0).any()) else x.a)

    of = recurrent(Cell(decides, gates=("a",)), 3, 4)
    engine, why = engine_and_reason(of, inputs(of, 5, 2)[0])
    assert engine == "reference"
    assert "a graph does not know" in why


# What PyTorch sees.


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["peephole_lstm", "gru_before"])
def test_operators_are_well_behaved(name: str) -> None:
    of = layer(name, 3, 9, bidirectional=True)
    x, states = inputs(of, 4, 3)
    call = of.call(0, x, states)
    call = call.replaced([t if t is None else t.detach().requires_grad_() for t in call.tensors()])
    arguments = operators.arguments("cpu", call)
    assert not any(isinstance(argument, list) and not argument for argument in arguments)  # AOTInductor loses these
    for operator in (torch.ops.elman.infer.default, torch.ops.elman.forward.default):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}
    bare = call.replaced([t if t is None else t.detach() for t in call.tensors()])
    arguments, there = operators.arguments("cpu", bare), [t is not None for t in bare.tensors()]
    output, *rest = torch.ops.elman.forward(*arguments)
    cotangents, given = [torch.ones_like(output)], [True, *(False for _ in states)]
    for needed in (there, [True, *(False for _ in there[1:])]):
        case = *arguments, output, rest[len(states) :], cotangents, given, needed
        found = torch.library.opcheck(torch.ops.elman.backward.default, case)
        assert set(found.values()) == {"SUCCESS"}


MISFITS: dict[str, tuple[Callable[[Call], Call], str]] = {
    "a state of fewer rows": (lambda call: call._replace(state=(call.state[0][:, 1:],)), "the initial h is"),
    "a state of another type": (lambda call: call._replace(state=(call.state[0].float(),)), "the initial h is"),
    "a state too few": (lambda call: call._replace(state=()), "1 states"),
    "a weight of other sizes": (lambda call: call._replace(x=call.x[:, :, 1:]), "weight_ih is"),
    "a stream": (lambda call: call._replace(streams=(call.x,)), r"has 0 streams \(\), but 1 were given"),
    "a constant": (lambda call: call._replace(constants=(call.x[0],)), "reads no constants"),
    "a length too few": (lambda call: call._replace(lengths=torch.ones(2, dtype=torch.int64)), r"lengths is \(2,\)"),
    "lengths too long": (
        lambda call: call._replace(lengths=torch.full((3,), 5)),
        "lengths holds 5, but the input has 4",
    ),
    "resets turned": (lambda call: call._replace(reset=torch.ones(3, 4, dtype=torch.bool)), r"reset is \(3, 4\)"),
    "another type": (
        lambda call: call.replaced([t if t is None else t.to(torch.complex64) for t in call.tensors()]),
        "complex64",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_operators_refuse_what_does_not_fit(misfit: str) -> None:
    """They can be called by anyone, so they look before an address is given to a kernel."""
    of = layer("gru", 3, 9)
    x, states = inputs(of, 4, 3)
    call = of.call(0, x, states)
    call = call.replaced([t if t is None else t.detach() for t in call.tensors()])
    change, message = MISFITS[misfit]
    wrong = operators.arguments("cpu", change(call))
    output, *rest = torch.ops.elman.forward(*operators.arguments("cpu", call))
    torch.ops.elman.infer(*operators.arguments("cpu", call))  # what was found out about it is not taken for the other
    needed = [t is not None for t in change(call).tensors()]
    for run_one in (
        lambda: torch.ops.elman.infer(*wrong),
        lambda: torch.ops.elman.forward(*wrong),
        lambda: torch.ops.elman.backward(*wrong, output, rest[1:], [output], [True, False], needed),
    ):
        with pytest.raises(RuntimeError, match=message):
            run_one()


def test_a_cell_that_is_not_known_is_named() -> None:
    _, *rest = operands(layer("lstm", 3, 4))
    with pytest.raises(
        RuntimeError, match="the cell 'stranger-0123' is not known in this process; build a layer of it"
    ):
        torch.ops.elman.infer("stranger-0123", *rest)


def test_a_cell_that_cannot_be_traced_has_a_name_that_no_other_process_gives() -> None:
    """Another process would run another cell of the same name."""

    def step(x, R, s):
        return State(h=torch.sin(x.h + R.h @ s.h))

    name = register(Cell(step, gates=("h",)))
    assert re.fullmatch("step-untraced-[0-9a-f]{16}", name)
    _, *rest = operands(layer("lstm", 3, 4))
    with pytest.raises(RuntimeError, match="cannot be traced, so what was exported runs only in the process"):
        torch.ops.elman.infer("step-untraced-0123", *rest)


def test_cells_of_one_graph_have_one_name() -> None:
    def step(x, R, s):
        return State(h=tanh(x.h + R.h @ s.h))

    def another(x, R, s):
        return State(h=tanh(x.h + R.h @ s.h) * 1.5)

    first, second = Cell(step, gates=("h",), name="rnn"), Cell(step, gates=("h",), name="rnn")
    assert register(first) == register(second) == register(cells.rnn)
    assert register(Cell(another, gates=("h",), name="rnn")) != register(first)


def test_a_cells_number_is_a_part_of_it() -> None:
    """Two cells that differ in a number only must not share kernels."""

    def leaky(rate: float) -> Cell:
        def step(x, R, s):
            return State(h=(1 - rate) * s.h + rate * sigmoid(x.a + R.a @ s.h))

        return Cell(step, gates=("a",), name="leaky")

    for rate in (0.25, 0.75):
        of = recurrent(leaky(rate), 3, 9)
        same(of, *inputs(of, 4, 3))


def test_a_module_in_training() -> None:
    """Through an optimiser: weights that were written in place are seen by the next call."""
    torch.manual_seed(0)
    runs = {}
    for engine in ("cpu", "reference"):
        of = layer("gru", 3, 9, num_layers=2)
        x, states = inputs(of, 6, 4)
        optimiser = torch.optim.SGD(of.parameters(), lr=1.0)
        losses = []
        for _ in range(5):
            with elman.use_engine(engine):
                loss = nn.functional.mse_loss(run(of, x, states)[0], torch.zeros(6, 4, 9, dtype=torch.float64))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        runs[engine] = torch.tensor(losses, dtype=torch.float64)
    close(runs["cpu"], runs["reference"])
    assert runs["cpu"][-1] < 0.9 * runs["cpu"][0]


# Tensors that are not what their memory says.

neg_view: Any = torch._neg_view  # pyright: ignore[reportPrivateImportUsage]
zero_tensor: Any = torch._efficientzerotensor  # pyright: ignore[reportPrivateImportUsage]


def test_tensors_negated_by_a_mark() -> None:
    of = layer("peephole_lstm", 3, 9)
    x, states = inputs(of, 4, 5)
    with elman.use_engine("cpu"):
        mine = run(of, neg_view(-x), tuple(neg_view(-s) for s in states))
        d = neg_view(-normal(*mine[0].shape, seed=1))
        found = torch.autograd.grad(mine[0], list(of.parameters()), d)
    with elman.use_engine("reference"):
        exact = run(of, x, states)
        close(found, torch.autograd.grad(exact[0], list(of.parameters()), normal(*mine[0].shape, seed=1)))
    close(mine, exact)


def test_a_cotangent_that_is_zero_by_a_mark() -> None:
    of = layer("gru", 3, 9)
    x, states = inputs(of, 4, 5)
    zero = zero_tensor((4, 5, 9), dtype=torch.float64)
    with elman.use_engine("cpu"):
        output = run(of, x, states)[0]
        assert all(d.count_nonzero() == 0 for d in torch.autograd.grad(output, list(of.parameters()), zero))


def test_second_derivatives_where_nothing_has_an_effect() -> None:
    of = recurrent(
        Cell(lambda x, s: State(h=tanh(x.a), c=s.h * 1.0), gates=("a",), states=("h", "c"), name="deaf"), 2, 3
    )
    x, states = inputs(of, 4, 5)
    of.requires_grad_(False)
    leaf = states[1].requires_grad_()
    with elman.use_engine("cpu"):
        output = run(of, x, (states[0], leaf))[0]
    assert not output.requires_grad or torch.autograd.grad(
        output.sum(), leaf, create_graph=True, allow_unused=True
    ) == (None,)


@pytest.mark.filterwarnings("ignore")  # about the shapes it fixes, and about its age
def test_traced_by_jit() -> None:
    of = layer("lstm", 3, 9)
    x, _ = inputs(of, 4, 5)
    traced: Any = torch.jit.trace(of, x, check_trace=False)
    close(traced(x)[0], of(x)[0])
