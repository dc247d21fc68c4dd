"""Truncated BPTT: what is read, what is learned from, and exactly how far the gradient reaches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import elman
from cases import as_tuple, close, hidden, inputs, layer, normal
from elman import Recurrent
from elman.training.tbptt import Window

BATCH, INPUT, HIDDEN = 2, 3, 4
LENGTHS = [(12, 4, 4), (12, 3, 7), (12, 2, 6), (11, 4, 10), (13, 5, 5), (13, 5, 8), (9, 1, 4), (7, 3, 20), (4, 9, 9)]


@st.composite
def lengths(draw: Any) -> tuple[int, int, int]:
    """T, k1, k2, with ragged ends and windows longer than the stream."""
    steps = draw(st.integers(1, 12))
    k1 = draw(st.integers(1, steps + 2))
    return steps, k1, draw(st.integers(k1, steps + 4))


def model(name: str = "lstm", **options: Any) -> Recurrent:
    return layer(name, INPUT, HIDDEN, **options)


def stream(of: Recurrent, steps: int) -> tuple[Tensor, Tensor, Any]:
    """Input, target and initial state, all of which want a gradient but the target."""
    x, states = inputs(of, steps, BATCH)
    return x.requires_grad_(), normal(steps, BATCH, HIDDEN, seed=5), hidden(tuple(s.requires_grad_() for s in states))


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return (output * target).sum() + output.square().sum()


def windows(
    of: Recurrent, x: Tensor, y: Tensor, k1: int, k2: int | None, state: Any
) -> Iterator[tuple[Window, Tensor, Tensor]]:
    for window in elman.tbptt((x, y), k1, k2, state):
        output, target = window.run(of)
        yield window, output, target


def first_step(stop: int, k2: int) -> int:
    """Where the gradient of the window that ends before `stop` stops, a ragged last one included."""
    return max(0, stop - k2)


def wanted(of: Recurrent, x: Tensor, state: Any) -> list[Tensor]:
    return [x, *as_tuple(state), *of.parameters()]


def grads(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


# Against backpropagation through the whole sequence.


@pytest.mark.parametrize("name", ["lstm", "peephole_lstm", "gru", "gru_before", "rnn"])
@pytest.mark.parametrize("layers", [1, 2])
def test_one_window_over_everything_is_full_bptt_to_the_bit(name: str, layers: int) -> None:
    of = model(name, num_layers=layers)
    x, y, state = stream(of, 8)
    leaves = wanted(of, x, state)
    full = grads(loss_of(of(x, state)[0], y), leaves)
    ((window, output, target),) = windows(of, x, y, 8, 8, state)
    assert (window.start, window.fresh, window.stop) == (0, 0, 8)
    for mine, exact in zip(grads(loss_of(output, target), leaves), full, strict=True):
        assert exact.abs().max() > 0
        assert torch.equal(mine, exact)


@settings(max_examples=30)
@given(lengths=lengths())
def test_windows_that_reach_the_start_add_up_to_full_bptt(lengths: tuple[int, int, int]) -> None:
    steps, k1, _ = lengths
    of = model()
    x, y, state = stream(of, steps)
    leaves = wanted(of, x, state)
    full = grads(loss_of(of(x, state)[0], y), leaves)
    total = [torch.zeros_like(leaf) for leaf in leaves]
    for _, output, target in windows(of, x, y, k1, max(k1, steps), state):
        total = [t + g for t, g in zip(total, grads(loss_of(output, target), leaves), strict=True)]
    close(total, full)


@settings(max_examples=40)
@given(lengths=lengths())
def test_the_state_is_not_cut(lengths: tuple[int, int, int]) -> None:
    """With frozen parameters the windows give the whole sequence's outputs, every step once."""
    steps, k1, k2 = lengths
    of = model("peephole_lstm", num_layers=2)
    x, y, state = stream(of, steps)
    whole, final = of(x, state)
    outputs, targets, last = [], [], None
    for window, output, target in windows(of, x, y, k1, k2, state):
        assert len(output) == len(target) == window.stop - window.fresh <= k1
        outputs.append(output)
        targets.append(target)
        last = window
    close(torch.cat(outputs), whole)
    assert torch.equal(torch.cat(targets), y)
    assert last is not None
    if k1 == k2 and steps % k1 == 0:  # the last window carries on where a longer stream would
        close(last.carried, tuple(f.detach() for f in final))


@pytest.mark.parametrize(("steps", "k1", "k2"), LENGTHS)
def test_where_windows_lie(steps: int, k1: int, k2: int) -> None:
    of = model()
    x, y, state = stream(of, steps)
    at = 0
    for window, _, _ in windows(of, x, y, k1, k2, state):
        assert window.fresh == at
        at = min(at + k1, steps)
        assert window.stop == at
        assert window.start == first_step(at, k2)
        assert torch.equal(window.data[0], x[window.start : window.stop])
        assert torch.equal(window.data[1], y[window.start : window.stop])
    assert at == steps


# How far a gradient reaches.


def reach(of: Recurrent, x: Tensor, output: Tensor) -> list[bool]:
    """Whether the gradient of the window's newest output with respect to each step of the input is anything but zero."""
    (d,) = torch.autograd.grad(loss_of(output, torch.ones_like(output)), [x], retain_graph=True, allow_unused=True)
    assert d is not None
    return [bool(step.any()) for step in d]


@pytest.mark.parametrize(("steps", "k1", "k2"), LENGTHS)
@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_the_gradient_stops_k2_steps_before_the_end(name: str, steps: int, k1: int, k2: int) -> None:
    of = model(name)
    x, y, state = stream(of, steps)
    for window, output, _ in windows(of, x, y, k1, k2, state):
        expected = [window.stop - k2 <= t < window.stop for t in range(steps)]
        assert reach(of, x, output) == expected
        assert reach(of, x, output[-1:]) == expected


@settings(max_examples=30)
@given(lengths=lengths())
def test_the_reach_of_any_window(lengths: tuple[int, int, int]) -> None:
    steps, k1, k2 = lengths
    of = model("gru")
    x, y, state = stream(of, steps)
    for window, output, _ in windows(of, x, y, k1, k2, state):
        assert reach(of, x, output) == [window.stop - k2 <= t < window.stop for t in range(steps)]


@settings(max_examples=20)
@given(lengths=lengths())
def test_a_windows_gradient_is_that_of_its_own_steps(lengths: tuple[int, int, int]) -> None:
    """Computed here from the whole sequence's states, cut by hand where the window starts."""
    steps, k1, k2 = lengths
    of = model("peephole_lstm")
    x, y, state = stream(of, steps)
    leaves = [x, *of.parameters()]
    for window, output, target in windows(of, x, y, k1, k2, state):
        start, stop = first_step(window.stop, k2), window.stop
        there: Any = state
        if start > 0:
            there = tuple(s.detach() for s in of(x[:start], state)[1])
        alone = of(x[start:stop], there)[0][window.fresh - start :]
        close(grads(loss_of(output, target), leaves), grads(loss_of(alone, y[window.fresh : stop]), leaves))


def test_the_initial_state_gets_its_gradient_as_long_as_a_window_reaches_it() -> None:
    of = model()
    x, y, state = stream(of, 12)
    reached = []
    for window, output, target in windows(of, x, y, 3, 7, state):
        d = torch.autograd.grad(loss_of(output, target), state, allow_unused=True)
        reached.append(all(g is not None and bool(g.any()) for g in d))
        assert reached[-1] == (window.start == 0)
        assert (d[0] is None) == (d[1] is None) == (window.start > 0)
    assert reached == [True, True, False, False]


def test_without_an_initial_state_it_is_zero() -> None:
    of = model()
    x, y, _ = stream(of, 7)
    whole = of(x)[0]
    close(torch.cat([output for _, output, _ in windows(of, x, y, 2, 5, None)]), whole)


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (3, 7), (2, 12)])
def test_the_carried_state_has_no_history(k1: int, k2: int) -> None:
    of = model()
    x, y, state = stream(of, 12)
    for window, output, _ in windows(of, x, y, k1, k2, state):
        assert output.grad_fn is not None
        if window.stop == 12:
            break
        if window.stop + k1 > k2:
            assert window.carried is not state
            assert all(s.grad_fn is None and not s.requires_grad for s in window.carried)
        else:
            assert window.carried is state  # the next window starts where everything does


def test_the_graph_of_a_window_is_freed_before_the_next() -> None:
    """backward() frees what it went through, so that a graph shared between windows would fail here."""
    of = model()
    x, y, _ = stream(of, 12)
    for _, output, target in windows(of, x.detach(), y, 3, 7, None):
        loss_of(output, target).backward()


# Parameters that change on the way.


@pytest.mark.parametrize(("steps", "k1", "k2"), LENGTHS)
def test_shared_steps_are_read_again_with_the_new_parameters(steps: int, k1: int, k2: int) -> None:
    of = model()
    x, y, state = stream(of, steps)
    known: dict[int, Any] = {0: state}  # as the last window that read a step left it
    for window, output, _ in windows(of, x, y, k1, k2, state):
        start = window.start
        close(window.state, known[start])
        close(output, of(x[start : window.stop], known[start])[0][window.fresh - start :])
        known |= {
            t: tuple(s.detach() for s in of(x[start:t], known[start])[1]) for t in range(start + 1, window.stop + 1)
        }
        with torch.no_grad():
            for p in of.parameters():
                p.add_(0.05 * normal(*p.shape, seed=window.fresh))


@pytest.mark.parametrize(("k1", "k2"), [(5, 5), (3, 7), (4, 7), (5, 20)])
def test_training_is_the_loop_written_by_hand(k1: int, k2: int) -> None:
    steps = 15

    def trained(by_hand: bool) -> list[Tensor]:
        of = model("gru")
        x, y, _ = stream(of, steps)
        x = x.detach()
        optimiser = torch.optim.SGD(of.parameters(), lr=0.01)

        def learn(output: Tensor, target: Tensor) -> None:
            optimiser.zero_grad()
            loss_of(output, target).backward()
            optimiser.step()

        if not by_hand:
            for window in elman.tbptt((x, y), k1, k2):
                learn(*window.run(of))
            return [p.detach() for p in of.parameters()]
        states = {0: torch.zeros(1, BATCH, HIDDEN, dtype=torch.float64)}
        for fresh in range(0, steps, k1):
            stop = min(fresh + k1, steps)
            start = first_step(stop, k2)
            outputs, h = [], states[start]
            for t in range(start, stop):
                output, h = of(x[t : t + 1], h)
                outputs.append(output)
                states[t + 1] = h.detach()
            learn(torch.cat(outputs)[fresh - start :], y[fresh:stop])
        return [p.detach() for p in of.parameters()]

    start = list(model("gru").parameters())
    for mine, hand, before in zip(trained(False), trained(True), start, strict=True):
        close(mine, hand)
        assert not torch.allclose(mine, before, atol=1e-3)


# Streams and states of any form.


def test_a_stream_may_have_any_parts() -> None:
    of = model("gru")
    x, _, state = stream(of, 7)
    seen = []
    for window in elman.tbptt((x, list(range(7)), torch.arange(7)), 3, 5, state):
        output, numbers, same = window.run(of)
        assert numbers == same.tolist()
        assert len(output) == len(numbers)
        seen += numbers
    assert seen == list(range(7))


def test_a_stream_may_be_a_tensor_alone() -> None:
    of = model("gru")
    x, _, state = stream(of, 7)
    outputs = [window.run(of) for window in elman.tbptt(x, 3, 5, state)]
    assert [len(parts) for parts in outputs] == [1, 1, 1]
    close(torch.cat([output for (output,) in outputs]), of(x, state)[0])


def test_k2_left_out_is_k1() -> None:
    of = model()
    x, y, state = stream(of, 12)
    assert [(w.start, w.fresh, w.stop) for w, _, _ in windows(of, x, y, 4, None, state)] == [
        (0, 0, 4),
        (4, 4, 8),
        (8, 8, 12),
    ]


class Pair(NamedTuple):
    h: Tensor
    rest: Any


class Nested(torch.nn.Module):
    """Two layers whose states lie in a dict in a named tuple in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = model("lstm"), layer("gru", HIDDEN, HIDDEN)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        (pair,) = state
        output, h_n = self.lstm(x, pair.rest["lstm"])
        output, h = self.gru(output, pair.h)
        return output, [Pair(h, {"lstm": h_n, "steps": pair.rest["steps"] + len(x), "none": None})]


def test_states_of_any_form_are_carried() -> None:
    of = Nested()
    x, (h_0, c_0) = inputs(of.lstm, 12, BATCH)
    state = [Pair(normal(1, BATCH, HIDDEN, seed=8).requires_grad_(), {"lstm": (h_0, c_0), "steps": 0, "none": None})]
    whole = of(x, state)[0]
    outputs = []
    for window in elman.tbptt(x, 3, 5, state):
        outputs.append(window.run(of)[0])
        if window.stop < 12:
            (pair,) = window.carried
            assert isinstance(pair, Pair)
            assert type(pair.rest["lstm"]) is tuple
            assert pair.rest["none"] is None
            assert pair.rest["steps"] == window.stop + 3 - 5
            assert all(s.grad_fn is None for s in (pair.h, *pair.rest["lstm"]))
    close(torch.cat(outputs), whole)


def test_detach() -> None:
    a = torch.ones(2, requires_grad=True) * 2
    b = torch.ones(3, requires_grad=True)
    state = {"x": (a, [b, None, 3]), "y": Pair(a, {"z": b}), "s": "text", "o": OrderedDict(k=a)}
    cut = elman.detach(state)
    assert type(cut) is dict
    assert list(cut) == list(state)
    assert type(cut["x"]) is tuple
    assert type(cut["x"][1]) is list
    assert cut["x"][1][1:] == [None, 3]
    assert type(cut["y"]) is Pair
    assert cut["s"] == "text"
    leaves = [cut["x"][0], cut["x"][1][0], cut["y"].h, cut["y"].rest["z"], cut["o"]["k"]]
    for leaf, source in zip(leaves, [a, b, a, b, a], strict=True):
        assert not leaf.requires_grad
        assert leaf.grad_fn is None
        assert torch.equal(leaf, source)
        assert leaf.data_ptr() == source.data_ptr()
    assert a.requires_grad
    assert b.requires_grad
    assert elman.detach(None) is None
    assert elman.detach(()) == ()


# Errors, at the call and not at the first window.


@pytest.mark.parametrize(("k1", "k2"), [(0, None), (-1, None), (0, 3), (4, 3), (2, 0)])
def test_impossible_windows(k1: int, k2: int | None) -> None:
    with pytest.raises(ValueError, match=rf"got k1={k1} and k2={k1 if k2 is None else k2}"):
        elman.tbptt(torch.zeros(5, 1, 1), k1, k2)


@pytest.mark.parametrize(("k1", "k2"), [(4.0, None), (2, 4.0), (None, None)])
def test_windows_of_broken_steps(k1: Any, k2: Any) -> None:
    with pytest.raises(TypeError, match=f"takes whole numbers of steps, got k1={k1}"):
        elman.tbptt(torch.zeros(5, 1, 1), k1, k2)


def test_an_empty_stream() -> None:
    with pytest.raises(ValueError, match=r"at least one step.*\[0\]"):
        elman.tbptt(torch.zeros(0, 1, 1), 2)
    with pytest.raises(ValueError, match="at least one step"):
        elman.tbptt((), 2)


def test_parts_of_unequal_length() -> None:
    with pytest.raises(ValueError, match=r"equally long, got lengths \[5, 4\]"):
        elman.tbptt((torch.zeros(5, 1, 1), torch.zeros(4, 1)), 2)


def test_a_window_that_was_not_run() -> None:
    walk = elman.tbptt(torch.zeros(5, 1, 1), 2)
    first = next(walk)
    with pytest.raises(RuntimeError, match=r"steps 0 to 2 has not been run.*window\.run\(model\)"):
        _ = first.carried
    with pytest.raises(RuntimeError, match="has not been run"):
        next(walk)
