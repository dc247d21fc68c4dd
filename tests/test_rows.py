"""Lengths, resets and packed sequences: against sequences run piece by piece, each by itself, and against torch.nn."""

from __future__ import annotations

import io
import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import elman
from cases import CELLS_AND_DEPTHS, as_tuple, close, hidden, inputs, layer, normal, run, weighted
from elman import Recurrent, reference
from elman.cpu.layer import kernel_tasks
from elman.layout import Call
from settings import setting, two_threads

ENGINES = ("reference", "auto")


def pieces(length: int, cuts: list[bool]) -> list[tuple[int, int]]:
    """The parts of a sequence between its resets: the first step of each, and the one after its last."""
    edges = [0, *[t for t in range(1, length) if cuts[t]], length]
    return list(pairwise(edges)) if length else []


def one_direction(
    call: Call, d: int, lengths: list[int], resets: list[list[bool]], afresh: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Every piece of every sequence run by itself, without lengths or resets. afresh: the states after one, (1, 1, width)."""
    (steps, batch, _), reverse = call.x.shape, call.directions[d].reverse
    outputs, finals = [], []
    for b in range(batch):
        at_end = [s[d : d + 1, b : b + 1] for s in call.state]
        parts = pieces(lengths[b], resets[b])
        if parts and resets[b][0] and not reverse:
            at_end = afresh
        found: list[Tensor] = []
        final = at_end
        for first, end in reversed(parts) if reverse else parts:
            part = call._replace(x=call.x[first:end, b : b + 1], directions=call.directions[d : d + 1], state=at_end)
            output, at_end = reference.run(part._replace(state=tuple(at_end)))
            found.append(output)
            final, at_end = at_end, afresh
        finals.append([s[0, 0] for s in final])
        if reverse:
            found.reverse()
        output = torch.cat([*found, call.x.new_zeros(steps - lengths[b], 1, call.state[0].shape[-1])])
        outputs.append(output)
    return torch.cat(outputs, dim=1), [torch.stack(of) for of in zip(*finals, strict=True)]


def piece_by_piece(
    of: Recurrent,
    x: Tensor,
    states: tuple[Tensor, ...],
    lengths: list[int],
    resets: list[list[bool]],
    learned: tuple[Tensor, ...] = (),
) -> tuple[Tensor, ...]:
    """What `forward` should give, without a line of the code that knows lengths. learned: (L*D, width) each."""
    finals: list[list[Tensor]] = []
    for number in range(of.num_layers):
        rows = slice(number * of.num_directions, (number + 1) * of.num_directions)
        call = of.call(number, x, tuple(s[rows] for s in states))
        found = []
        for d in range(of.num_directions):
            row = number * of.num_directions + d
            afresh = [s[row, None, None] for s in learned] or [torch.zeros_like(s[:1, :1]) for s in call.state]
            found.append(one_direction(call, d, lengths, resets, afresh))
        x = torch.cat([output for output, _ in found], dim=-1)
        finals += [of_direction for _, of_direction in found]
    return x, *[torch.stack(of) for of in zip(*finals, strict=True)]


class Case:
    """Random lengths and resets, with zero, one and all of the steps among them, and NaN beyond them."""

    def __init__(self, seed: int, steps: int, batch: int, *, cut: float = 0.3, same: bool = False) -> None:
        draw = random.Random(seed)
        self.lengths = [steps if same else draw.choice((0, 1, steps, draw.randint(0, steps))) for _ in range(batch)]
        self.resets = [[draw.random() < cut for _ in range(steps)] for _ in range(batch)]
        self.inside = torch.arange(steps)[:, None] < torch.tensor(self.lengths)[None, :]  # (T, B)

    @property
    def reset(self) -> Tensor:
        return torch.tensor(self.resets).T

    def spoilt(self, x: Tensor) -> Tensor:
        return torch.where(self.inside[..., None], x, torch.nan)


def judged(of: Recurrent, x: Tensor, states: tuple[Tensor, ...], results: tuple[Tensor, ...], leaves: Any) -> Any:
    grads = torch.autograd.grad(weighted(results), [*leaves, *of.parameters()], allow_unused=True)
    sources = [*leaves, *of.parameters()]
    return [torch.zeros_like(s) if g is None else g for s, g in zip(sources, grads, strict=True)]


def compare(of: Recurrent, case: Case, x: Tensor, states: tuple[Tensor, ...], lengths: Any, reset: Any) -> None:
    """Results, and gradients of random cotangents on all of them, padding included."""
    leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
    with elman.use_engine("reference"):
        exact = piece_by_piece(of, leaves[0], tuple(leaves[1:]), case.lengths, case.resets)
    d_exact = judged(of, x, states, exact, leaves)

    others = [case.spoilt(x).requires_grad_(), *[s.detach().clone().requires_grad_() for s in states]]
    output, h_n = of(others[0], hidden(tuple(others[1:])), lengths=lengths, reset=reset)
    found = output, *as_tuple(h_n)
    d_found = judged(of, x, states, found, others)
    close(found, exact)
    close(d_found, d_exact)
    assert (d_found[0][~case.inside] == 0).all()
    assert (output[~case.inside] == 0).all()
    with torch.no_grad():
        close(run_rows(of, case.spoilt(x), states, lengths, reset), exact)


def run_rows(of: Any, x: Tensor, states: tuple[Tensor, ...], lengths: Any, reset: Any) -> tuple[Tensor, ...]:
    output, h_n = of(x, hidden(states), lengths=lengths, reset=reset)
    return output, *as_tuple(h_n)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "layers", "bidirectional"), CELLS_AND_DEPTHS.values(), ids=CELLS_AND_DEPTHS)
def test_every_cell(name: str, layers: int, bidirectional: bool, engine: str) -> None:
    of = layer(name, 3, 5, num_layers=layers, bidirectional=bidirectional)
    case = Case(len(name), 7, 5)
    x, states = inputs(of, 7, 5)
    with elman.use_engine(engine):
        compare(of, case, x, states, torch.tensor(case.lengths), case.reset)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(12))
def test_random_lengths_and_resets(seed: int, engine: str) -> None:
    draw = random.Random(seed)
    name, units = draw.choice(("lstm", "gru", "gru_before", "projected_lstm")), draw.choice((2, 8, 17, 40))
    of = layer(name, draw.randint(1, 20), units, bidirectional=seed % 2 == 0)
    steps, batch = draw.choice((1, 2, 9, 40)), draw.choice((1, 2, 9, 33))
    case = Case(seed, steps, batch, cut=draw.choice((0.0, 0.1, 0.9)), same=seed % 4 == 3)
    x, states = inputs(of, steps, batch)
    with elman.use_engine(engine):
        compare(of, case, x, states, torch.tensor(case.lengths), case.reset)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_finite_beyond_the_end(engine: str) -> None:
    """A state that no step reads may be anything; it is handed on, and its gradient with it."""
    of = layer("lstm", 3, 5, bidirectional=True)
    x, states = inputs(of, 4, 3)
    states[0][:, 1], states[1][:, 1] = torch.inf, torch.nan
    states = tuple(s.requires_grad_() for s in states)
    with elman.use_engine(engine):
        output, (h_n, c_n) = of(x, states, lengths=[4, 0, 2])
        grads = torch.autograd.grad(weighted((output, h_n[:, [0, 2]], c_n[:, [0, 2]])), [*states, *of.parameters()])
    assert output.isfinite().all()
    assert (h_n[:, 1] == torch.inf).all()
    assert c_n[:, 1].isnan().all()
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "layers", "bidirectional"), CELLS_AND_DEPTHS.values(), ids=CELLS_AND_DEPTHS)
def test_initial_states_that_are_learned(name: str, layers: int, bidirectional: bool, engine: str) -> None:
    """Where hx is left out, and after every reset; with hx, after resets only."""
    of = layer(name, 3, 5, num_layers=layers, bidirectional=bidirectional, learn_initial_state=True)
    assert all(p.std() > 0.1 for p in of.initial_states())  # `layer` draws them too
    case = Case(len(name) + 1, 7, 5)
    x, states = inputs(of, 7, 5)
    for given in (False, True):
        results = []
        for own in (True, False):
            leaf = (case.spoilt(x) if own else x.clone()).requires_grad_()
            learned = of.initial_states()
            begin = states if given else tuple(s.unsqueeze(1).expand(-1, 5, -1) for s in learned)
            with elman.use_engine(engine if own else "reference"):
                if own:
                    output, h_n = of(leaf, hidden(states) if given else None, lengths=case.lengths, reset=case.reset)
                    found = output, *as_tuple(h_n)
                else:
                    found = piece_by_piece(of, leaf, begin, case.lengths, case.resets, learned)
                results.append((found, judged(of, x, (), found, [leaf])))
        close(*results)
    with torch.no_grad():
        plain, frozen = (of_one(x, lengths=case.lengths, reset=case.reset) for of_one in (of, elman.freeze(of)))
        close(frozen, plain)
    assert "learn_initial_state=True" in repr(of)
    names = [name for name, _ in of.named_parameters()]
    assert names[-len(states) :] == [f"{state}_0" for state in of.cell.states]
    of.reset_parameters()
    assert all((p == 0).all() for p in of.initial_states())


@pytest.mark.parametrize("engine", ENGINES)
def test_only_one_of_the_two(engine: str) -> None:
    of = layer("lstm", 3, 5, bidirectional=True)
    x, states = inputs(of, 6, 4)
    none, all_of = Case(1, 6, 4, cut=0.0), Case(2, 6, 4, same=True)
    with elman.use_engine(engine):
        compare(of, none, x, states, none.lengths, None)
        compare(of, all_of, x, states, None, all_of.reset)


def test_lengths_equal_to_the_number_of_steps_change_nothing() -> None:
    for name in ("lstm", "gru"):
        of = layer(name, 3, 5, bidirectional=True)
        x, states = inputs(of, 6, 4)
        reset = torch.zeros(6, 4, dtype=torch.bool)
        with elman.use_engine("reference"):
            plain = run(of, x, states)
            assert all(map(torch.equal, run_rows(of, x, states, torch.full((4,), 6), reset), plain))


ONE = {"lengths": {"lengths": torch.tensor([3])}, "resets": {"reset": torch.tensor([[False, True, False, False]])}}


@pytest.mark.parametrize("rows", ONE.values(), ids=ONE)
def test_one_sequence_with_the_batch_first(rows: dict[str, Tensor]) -> None:
    """The stride of its only row leads to no other row, in the cotangent of the output either."""
    of = layer("gru", 3, 5, num_layers=2, bidirectional=True, batch_first=True)
    x, weights, found = normal(1, 4, 3, seed=1), normal(1, 4, 10, seed=2), []
    for engine in ("cpu", "reference"):
        with elman.use_engine(engine):
            output, _ = of(x, **rows)
            found.append([output, *torch.autograd.grad((output * weights).sum(), list(of.parameters()))])
    close(*found)


@pytest.mark.parametrize("engine", ENGINES)
def test_shapes_follow_the_input(engine: str) -> None:
    of = layer("gru", 3, 5, num_layers=2, bidirectional=True)
    first = layer("gru", 3, 5, num_layers=2, bidirectional=True, batch_first=True)
    x, states = inputs(of, 6, 4)
    case = Case(3, 6, 4)
    with elman.use_engine(engine):
        plain = run_rows(of, x, states, case.lengths, case.reset)
        turned = run_rows(first, x.transpose(0, 1), states, case.lengths, case.reset.T)
        close((turned[0].transpose(0, 1), turned[1]), plain)
        for kind in (torch.int32, torch.uint8):
            close(run_rows(of, x, states, torch.tensor(case.lengths, dtype=kind), case.reset), plain)
        for b in range(4):
            own = tuple(s[:, b] for s in states)
            alone = run_rows(of, x[:, b], own, torch.tensor(case.lengths[b]), case.reset[:, b])
            close(alone, (plain[0][:, b], plain[1][:, b]))


@pytest.mark.parametrize("engine", ENGINES)
def test_step_by_step(engine: str) -> None:
    of = layer("lstm", 3, 5, num_layers=2)
    x, states = inputs(of, 6, 4)
    case = Case(5, 6, 4)
    with elman.use_engine(engine):
        whole = run_rows(of, x, states, case.lengths, case.reset)
        state, outputs = hidden(states), []
        for t in range(6):
            output, state = of.step(x[t], state, lengths=case.inside[t].long(), reset=case.reset[t])
            outputs.append(output)
    close((torch.stack(outputs), *as_tuple(state)), whole)


def test_frozen() -> None:
    of = layer("lstm", 3, 5, num_layers=2, bidirectional=True)
    x, states = inputs(of, 6, 4)
    case = Case(6, 6, 4)
    with torch.no_grad():
        close(
            run_rows(elman.freeze(of), x, states, case.lengths, case.reset),
            run_rows(of, x, states, case.lengths, case.reset),
        )


def test_trace_and_describe() -> None:
    of = layer("gru", 3, 5, bidirectional=True)
    x, states = inputs(of, 6, 4)
    case = Case(7, 6, 4)
    traced = elman.trace(of, case.spoilt(x), states[0], lengths=case.lengths, reset=case.reset)
    output, h_n = of(x, states[0], lengths=case.lengths, reset=case.reset)
    close((traced.output, traced.h_n), (output, h_n))
    for d, recurrence in enumerate(traced.recurrences):
        close(recurrence.states["h"], output[..., 5 * d : 5 * d + 5])
        for gate in recurrence.gates.values():
            assert (gate[~case.inside] == 0).all()
            assert (gate[case.inside] != 0).all()
    described = elman.describe(of, x, states[0], lengths=case.lengths, reset=case.reset)
    assert described.flops * 24 == elman.describe(of, x, states[0]).flops * sum(case.lengths)


# The kernels.


@pytest.mark.parametrize("bidirectional", [False, True], ids=["uni", "bi"])
@pytest.mark.parametrize(
    "sizes", [(9, 5, 3, 33), (40, 33, 16, 64), (30, 2, 20, 96)], ids=lambda s: "x".join(map(str, s))
)
@pytest.mark.parametrize("name", ["lstm", "gru_before", "projected_lstm"])
def test_threads_do_not_change_a_bit(name: str, sizes: tuple[int, int, int, int], bidirectional: bool) -> None:
    """Threads share rows by their steps, or units; the second time those that share units meet after every phase."""
    steps, batch, size, units = sizes
    of = layer(name, size, units, bidirectional=bidirectional)
    case = Case(steps, steps, batch, cut=0.05)
    x, states = inputs(of, steps, batch)

    def everything() -> list[Tensor]:
        leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
        results = run_rows(of, leaves[0], tuple(leaves[1:]), case.lengths, case.reset)
        with torch.no_grad():
            inferred = run_rows(of, x, states, case.lengths, case.reset)
        return [*results, *inferred, *torch.autograd.grad(weighted(results), [*leaves, *of.parameters()])]

    with elman.use_engine("cpu"):
        alone = everything()
        with two_threads():
            assert all(map(torch.equal, everything(), alone))
            with setting(kernel_tasks, MEETING=0):
                assert all(map(torch.equal, everything(), alone))


def test_a_length_of_another_row_does_not_change_a_bit() -> None:
    of = layer("lstm", 8, 24, bidirectional=True)
    x, states = inputs(of, 12, 20)
    lengths = torch.tensor([random.Random(3).randint(1, 12) for _ in range(20)])
    with elman.use_engine("cpu"), torch.no_grad():
        whole = run_rows(of, x, states, lengths, None)
        for b in range(20):
            others = torch.where(torch.arange(20) == b, lengths, 12)
            found = run_rows(of, x, states, others, None)
            assert all(torch.equal(f[:, b], w[:, b]) for f, w in zip(found, whole, strict=True))


def test_a_view_of_the_input_and_of_a_cotangent() -> None:
    of = layer("gru", 3, 5, bidirectional=True)
    case = Case(11, 7, 4)
    wide = normal(14, 4, 6, seed=1)
    x = wide[::2, :, ::2]
    _, states = inputs(of, 7, 4)
    for d_output in (normal(14, 4, 10, seed=2)[::2], torch.ones(()).expand(7, 4, 10).double()):
        found = []
        for engine in ("cpu", "reference"):
            leaf = x.detach().requires_grad_()
            with elman.use_engine(engine):
                output, _ = of(leaf, states[0], lengths=case.lengths, reset=case.reset)
                found.append([output, *torch.autograd.grad(output, [leaf, *of.parameters()], d_output)])
        close(*found)


# Packed sequences, as torch.nn has them.

TORCH = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN, "projected_lstm": torch.nn.LSTM}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ordered", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("given", [True, False], ids=["states", "zeros"])
@pytest.mark.parametrize("name", TORCH)
def test_packed_sequences_are_torchs(name: str, given: bool, ordered: bool, engine: str) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True} | (
        {"proj_size": 4} if name == "projected_lstm" else {}
    )
    of = layer(name, 3, 5, **options)
    other = TORCH[name](3, 5, dtype=torch.float64, **options)
    other.load_state_dict(of.state_dict())
    lengths = [6, 4, 4, 1] if ordered else [4, 1, 6, 4]
    x, states = inputs(of, 6, 4)
    for batch_first in (False, True):
        of.batch_first = other.batch_first = batch_first
        results = []
        for module in (of, other):
            leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
            parts = [leaves[0][:length, b] for b, length in enumerate(lengths)]
            packed = pack_sequence(parts, enforce_sorted=ordered)
            with elman.use_engine(engine):
                output, h_n = module(packed, hidden(tuple(leaves[1:]))) if given else module(packed)
            assert isinstance(output, PackedSequence)
            found = output.data, *as_tuple(h_n)
            needed = leaves if given else leaves[:1]
            grads = torch.autograd.grad(weighted(found), [*needed, *module.parameters()])
            indices = [i for i in (output.sorted_indices, output.unsorted_indices) if i is not None]
            results.append((found, grads, output.batch_sizes, *indices))
        close(*results)


def test_a_packed_sequence_is_an_argument_of_a_compiled_layer() -> None:
    """One graph for all numbers of steps and sequences, unsorted with or without states, sorted with states."""
    torch._dynamo.reset()
    of = layer("lstm", 3, 7, bidirectional=True, batch_first=True)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(of, fullgraph=True, backend=counter, dynamic=True)
    for ordered, given in ((False, True), (False, False), (True, True)):
        counts = []
        for lengths in ([4, 1, 6, 4, 2], [3, 9, 9], [8, 2, 5, 1]):
            lengths = sorted(lengths, reverse=True) if ordered else lengths
            x, states = inputs(of, max(lengths), len(lengths))
            packed = pack_sequence([x[:n, b] for b, n in enumerate(lengths)], enforce_sorted=ordered)
            found = []
            for module in (of, compiled):
                leaf = packed.data.clone().requires_grad_()
                output, h_n = module(PackedSequence(leaf, *packed[1:]), *([hidden(states)] if given else []))
                assert isinstance(output, PackedSequence)
                results = output.data, *as_tuple(h_n)
                found.append((results, torch.autograd.grad(weighted(results), [leaf, *of.parameters()])))
            close(*found)
            counts.append(counter.frame_count)
        assert len(set(counts)) == 1, (ordered, given, counts)


def test_a_packed_sequence_with_lengths_is_refused() -> None:
    of = layer("lstm", 3, 5)
    packed = pack_sequence([normal(4, 3, seed=1), normal(2, 3, seed=2)])
    for more in ({"lengths": [4, 2]}, {"reset": torch.zeros(4, 2, dtype=torch.bool)}):
        with pytest.raises(TypeError, match="a PackedSequence brings its own lengths"):
            of(packed, **more)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_packed_sequence_with_states_of_another_batch_is_refused(batch: int) -> None:
    """Sequences that were sorted before have no order that would tell how many they are."""
    of, h = layer("gru", 3, 5), torch.zeros(1, batch, 5, dtype=torch.float64)
    packed = pack_padded_sequence(normal(5, 3, 3, seed=1), torch.tensor([5, 3, 2]))
    with pytest.raises(RuntimeError, match=rf"Expected hidden size \(1, 3, 5\), got \[1, {batch}, 5\]"):
        of(packed, h)


def test_packed_and_padded_are_the_same() -> None:
    of = layer("peephole_lstm", 3, 5, bidirectional=True)
    x, states = inputs(of, 6, 4)
    lengths = torch.tensor([3, 6, 1, 5])
    packed, h_n = of(pack_padded_sequence(x, lengths, enforce_sorted=False), hidden(states))
    close((pad_packed_sequence(packed, total_length=6)[0], *h_n), run_rows(of, x, states, lengths, None))


# What does not fit.

BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "negative": ({"lengths": [3, -2, 1]}, RuntimeError, "lengths holds -2, but the input has 4 steps; .* 0 to 4"),
    "too long": ({"lengths": [3, 5, 1]}, RuntimeError, "lengths holds 5, but the input has 4 steps; .* 0 to 4"),
    "too few": ({"lengths": [3, 2]}, RuntimeError, r"lengths is \(2,\) but must be \(3,\) = \(sequences,\)"),
    "of two dimensions": ({"lengths": [[3, 2, 1]]}, RuntimeError, r"lengths is \(1, 3\) but must be \(3,\)"),
    "broken": ({"lengths": [3.0, 2.0, 1.5]}, TypeError, "lengths is of torch.float32 but must be whole numbers"),
    "truth values": ({"lengths": [True, True, False]}, TypeError, "lengths is of torch.bool"),
    "nothing": ({"lengths": [1, None, 3]}, TypeError, r"lengths must be whole numbers in a .* got \[1, None, 3\]"),
    "words": ({"lengths": ["1", "2", "3"]}, TypeError, "lengths must be whole numbers in a tensor or a list, got .'1'"),
    "a generator": (
        {"lengths": (k for k in range(3))},
        TypeError,
        "lengths must be whole numbers in a tensor or a list, got <generator",
    ),
    "reset alone": ({"reset": True}, RuntimeError, r"reset is \(\) but must be \(4, 3\)"),
    "reset of nothing": ({"reset": [None]}, TypeError, r"reset must be truth values in a tensor or a list, got \[None"),
    "a mask": (
        {"lengths": torch.ones(4, 3, dtype=torch.bool)},
        TypeError,
        r"lengths is of torch.bool but must be whole numbers; if it is a mask, give .*: mask.sum\(0\)$",
    ),
    "a mask of numbers": (
        {"lengths": torch.ones(4, 3)},
        TypeError,
        r"lengths is of torch.float32 .*: mask.sum\(0\).long\(\)$",
    ),
    "a mask of whole numbers": (
        {"lengths": torch.ones(4, 3).long()},
        RuntimeError,
        r"lengths is \(4, 3\) but must be \(3,\) = \(sequences,\); if it is a mask, give .*: mask.sum\(0\)$",
    ),
    "reset turned": (
        {"reset": torch.zeros(3, 4, dtype=torch.bool)},
        RuntimeError,
        r"reset is \(3, 4\) but must be \(4, 3\), laid out as the input is",
    ),
    "reset of numbers": ({"reset": torch.zeros(4, 3)}, TypeError, "reset is of torch.float32 but must be truth values"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_what_does_not_fit_is_named(wrong: str) -> None:
    of = layer("gru", 3, 5)
    x, _ = inputs(of, 4, 3)
    more, kind, message = BAD[wrong]
    with pytest.raises(kind, match=f"GRU: {message}"):
        of(x, **more)


def test_a_mask_that_is_not_time_first() -> None:
    of = layer("gru", 3, 5, batch_first=True)
    for x, message in ((normal(2, 4, 3, seed=1), r"mask.sum\(1\)$"), (normal(4, 3, seed=1), r"mask.sum\(0\)$")):
        with pytest.raises(TypeError, match=message):
            of(x, lengths=torch.ones(x.shape[:-1], dtype=torch.bool))


def test_a_packed_sequence_of_any_order_with_other_states_is_refused() -> None:
    of, packed = layer("gru", 3, 5), pack_padded_sequence(normal(5, 3, 3, seed=1), [3, 5, 2], enforce_sorted=False)
    for hx, kind, message in (
        (torch.zeros(1, 2, 5, dtype=torch.float64), RuntimeError, r"Expected hidden size \(1, 3, 5\), got \[1, 2, 5\]"),
        (0.0, TypeError, "hx must be one tensor, got float"),
    ):
        with pytest.raises(kind, match=message):
            of(packed, hx)


def test_resets_in_an_array_or_a_list() -> None:
    of = layer("gru", 3, 5)
    x, states = inputs(of, 4, 3)
    reset = Case(1, 4, 3).reset
    expected = run_rows(of, x, states, None, reset)
    for given in (reset.numpy(), reset.tolist()):
        assert all(map(torch.equal, run_rows(of, x, states, None, given), expected))
    step = of.step(x[0], hidden(states), reset=reset[0])
    assert torch.equal(of.step(x[0], hidden(states), reset=reset[0].tolist())[0], step[0])
    assert of(x[:, :0], reset=[[]] * 4)[0].shape == (4, 0, 5)


# Transforms and the compiler.


def test_lengths_that_are_batched() -> None:
    of = layer("lstm", 3, 5, bidirectional=True)
    x, states = inputs(of, 6, 4)
    lengths = torch.tensor([[3, 6, 0, 5], [1, 1, 6, 2]])
    reset = torch.stack([Case(1, 6, 4).reset, Case(2, 6, 4).reset])
    found = torch.func.vmap(lambda one, cuts: run_rows(of, x, states, one, cuts))(lengths, reset)
    expected = [run_rows(of, x, states, one, cuts) for one, cuts in zip(lengths, reset, strict=True)]
    close(found, tuple(torch.stack(of_both) for of_both in zip(*expected, strict=True)))


@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    two = name == "lstm"  # layers, with states that are learned; the other cell has one layer with states of zeros
    of = layer(name, 3, 5, num_layers=1 + two, bidirectional=True, learn_initial_state=two)
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager", dynamic=True)
    torch._dynamo.utils.counters.clear()
    counts = []
    for steps, batch in ((6, 7), (9, 11), (8, 2), (4, 3), (2, 5), (7, 7), (3, 9)):
        case = Case(steps, steps, batch)  # T and B are no other size of the model at first
        x, states = inputs(of, steps, batch)
        compare_compiled(of, compiled, case, x, states)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts == [2] * len(counts)  # with gradients, and without
    x, states = inputs(of, 6, 4)
    with pytest.raises(RuntimeError, match="lengths holds 7, but the input has 6 steps"), torch.no_grad():
        run_rows(compiled, x, states, torch.tensor([7, 1, 2, 3]), Case(1, 6, 4).reset)


def compare_compiled(of: Recurrent, compiled: Any, case: Case, x: Tensor, states: tuple[Tensor, ...]) -> None:
    results = []
    for module in (of, compiled):
        leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
        found = run_rows(module, leaves[0], tuple(leaves[1:]), torch.tensor(case.lengths), case.reset)
        results.append((found, torch.autograd.grad(weighted(found), [*leaves, *of.parameters()])))
        with torch.no_grad():
            results[-1] += (run_rows(module, x, states, torch.tensor(case.lengths), case.reset),)
    close(*results)


def test_derivatives_of_every_kind() -> None:
    of = layer("lstm", 2, 3, bidirectional=True)
    x, states = inputs(of, 4, 3)
    case = Case(2, 4, 3)
    of_x = lambda x: run_rows(of, x, states, case.lengths, case.reset)  # noqa: E731
    x.requires_grad_()
    assert torch.autograd.gradcheck(of_x, x)
    assert torch.autograd.gradcheck(of_x, x, check_forward_ad=True, check_backward_ad=False)
    assert torch.autograd.gradgradcheck(of_x, x)
    value, tangent, *_ = torch.func.jvp(lambda x: of_x(x)[0], (x.detach(),), (torch.ones_like(x),))
    apart = (of_x(x.detach() + 1e-6)[0] - of_x(x.detach() - 1e-6)[0]) / 2e-6
    torch.testing.assert_close(tangent, apart, rtol=1e-6, atol=1e-8)
    close(value, of_x(x.detach())[0])


@pytest.mark.parametrize("strict", [False, True])
def test_exported_with_lengths(strict: bool) -> None:
    of = layer("gru", 3, 5, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float32)
    x, lengths = torch.randn(6, 7, 3), torch.tensor([7, 1, 0, 5, 2, 3])
    size = torch.export.Dim("B", min=2, max=1000), torch.export.Dim("T", min=2, max=1000)
    shapes = {"input": {0: size[0], 1: size[1]}, "lengths": {0: size[0]}}
    program = torch.export.export(of, (x,), {"lengths": lengths}, dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    x, lengths = torch.randn(4, 9, 3), torch.tensor([9, 0, 4, 1])
    assert all(map(torch.equal, loaded(x, lengths=lengths), of(x, lengths=lengths)))
    with pytest.raises(RuntimeError, match="lengths holds 10, but the input has 9 steps"):
        loaded(x, lengths=torch.tensor([10, 0, 4, 1]))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_with_lengths() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer("lstm", 3, 5, bidirectional=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return self.layer(x, lengths=lengths)[0]

    model = Model()
    x, _ = inputs(model.layer, 6, 4)
    traced: Any = torch.jit.trace(model, (x, torch.tensor([6, 1, 0, 3])), check_trace=False)
    lengths = torch.tensor([2, 6, 5, 0])
    close(traced(x, lengths), model(x, lengths))


@pytest.mark.parametrize("engine", ["reference", "gpu"])
def test_learned_states_of_stacked_layers_under_autocast(engine: str) -> None:
    """The second layer reads what the first one has computed in half the width; its learned states have all of it."""
    of = layer("lstm", 3, 5, dtype=torch.float32, num_layers=2, learn_initial_state=True)
    x, case, found = inputs(of, 4, 3)[0], Case(4, 4, 3), []
    for enabled in (False, True):
        with elman.use_engine(engine), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = of(x, lengths=case.lengths, reset=case.reset)[0].float()
        found.append((output, torch.autograd.grad(output.square().sum(), list(of.parameters()))))
    (exact, d_exact), (rounded, d_rounded) = found
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)
    for mine, theirs in zip(d_rounded, d_exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.1, atol=0.1)
