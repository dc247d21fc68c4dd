"""Dropout inside a recurrence: `recurrent_dropout` and `weight_dropout` of every layer."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.func import functional_call

import elman
import quick_triton  # noqa: F401
from cases import as_tuple, close, inputs, normal, recurrent, weighted
from elman import Cell, Recurrent, State, cells, inner_dropout
from elman.cell import cell as define
from forks import Child, Forks

PLAIN = [cell for cell in cells.BUILT_IN.values() if not cell.projected]


@define(gates=("a", "b"), states=("h", "c"), vectors=("v",), streams=("mask",))
def of_two_operands(x: Any, R: Any, s: Any, p: Any, u: Any) -> State:
    """A product of a product, a gate with two operands, and a stream of its own that is called as the mask is."""
    a = torch.tanh(x.a + R.a @ s.h + R.a @ s.c)
    c = s.c + torch.sigmoid(x.b + R.b @ (a + u.mask)) * p.v
    return State(h=torch.tanh(c) * a, c=c)


@define(gates=("a",), states=("h", "c"), projected=("c",))
def of_another_projected(x: Any, R: Any, s: Any, P: Any) -> State:
    """Projects a state that is not its output."""
    h = torch.tanh(x.a + R.a @ s.h)
    return State(h=h, c=0.5 * s.c + P.c @ h)


OWN = [of_two_operands, of_another_projected]
# Engines know nothing of dropout, so a few cells show that each of them runs what the others run.
ON = {"reference": [*PLAIN, *OWN], "cpu": [cells.lstm, cells.gru_before, *OWN], "gpu": [cells.gru_before, OWN[0]]}
EACH = [pytest.param(engine, cell, id=f"{engine}-{cell.name}") for engine, those in ON.items() for cell in those]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every mask that is drawn inside a recurrence, in the order of drawing."""
    masks: list[Tensor] = []

    def dropout(values: Tensor, p: float) -> Tensor:
        mask = torch.nn.functional.dropout(torch.ones_like(values), p).detach()
        masks.append(mask)
        return values * mask

    monkeypatch.setattr(inner_dropout, "dropout", dropout)
    return masks


def masked_columns(of: Recurrent, drawn: list[Tensor], row: int) -> dict[str, Tensor]:
    """The parameters with which a layer without dropout does to one row what the masks did: R (m v) = (R diag(m)) v."""
    own: dict[str, Tensor] = dict(of.named_parameters())
    each = iter(drawn)
    for layer in range(of.num_layers):
        for suffix in ("", "_reverse")[: of.num_directions]:
            own[f"weight_hh_l{layer}{suffix}"] = own[f"weight_hh_l{layer}{suffix}"] * next(each)[0, row]
    assert next(each, None) is None
    return own


@pytest.mark.parametrize(("engine", "cell"), EACH)
def test_each_row_and_direction_has_a_mask_for_all_its_steps(engine: str, cell: Cell, drawn: list[Tensor]) -> None:
    more: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True, "learn_initial_state": True}
    of = recurrent(cell, 3, 5, recurrent_dropout=0.4, **more)
    plain = recurrent(cell, 3, 5, **more)
    x, (*states,) = inputs(of, 6, 3)
    given: dict[str, Any] = {"lengths": torch.tensor([6, 2, 5]), "reset": torch.rand(3, 6) < 0.3}
    if cell.streams:
        given["streams"] = {name: normal(3, 6, 5, seed=8) for name in cell.streams}
    x = x.transpose(0, 1).clone().requires_grad_()
    with elman.use_engine(engine):
        output, h_n = of(x, states[0] if len(states) == 1 else tuple(states), **given)
    assert len(drawn) == 4
    assert [mask.shape for mask in drawn] == [(1, 3, 5)] * 4

    def of_row(value: Any, row: int) -> Any:
        return {n: v[row : row + 1] for n, v in value.items()} if isinstance(value, dict) else value[row : row + 1]

    outputs, finals = [], []
    with elman.use_engine("reference"):
        for row in range(3):
            own = tuple([state[:, row : row + 1] for state in states])
            arguments = x[row : row + 1], own[0] if len(own) == 1 else own
            rest = {name: of_row(value, row) for name, value in given.items()}
            found = functional_call(plain, masked_columns(of, drawn, row), arguments, rest)
            outputs.append(found[0])
            finals.append(as_tuple(found[1]))
    exact = torch.cat(outputs), *[torch.cat(of_state, 1) for of_state in zip(*finals, strict=True)]
    mine = output, *as_tuple(h_n)
    close(mine, exact)
    sources = [x, *of.parameters()]
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    close(
        torch.autograd.grad(weighted(mine), sources, **options),
        torch.autograd.grad(weighted(exact), sources, **options),
    )


@pytest.mark.parametrize("name", ["lstm", "gru_before", "peephole_lstm", "projected_lstm"])
def test_weights_are_dropped_for_a_whole_call(name: str, drawn: list[Tensor]) -> None:
    more: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    more |= {"proj_size": 2} if name == "projected_lstm" else {}
    of = recurrent(cells.BUILT_IN[name], 3, 5, weight_dropout=0.5, **more)
    plain = recurrent(cells.BUILT_IN[name], 3, 5, **more)
    x, states = inputs(of, 6, 3)
    hx = states[0] if len(states) == 1 else states
    output, h_n = of(x, hx)
    own: dict[str, Tensor] = dict(of.named_parameters())
    names = [name for name in own if "weight_hh" in name]
    assert [mask.shape for mask in drawn] == [own[name].shape for name in names]
    own |= {name: own[name] * mask for name, mask in zip(names, drawn, strict=True)}
    with elman.use_engine("reference"):
        exact = functional_call(plain, own, (x, hx))
    mine, exact = (output, *as_tuple(h_n)), (exact[0], *as_tuple(exact[1]))
    close(mine, exact)
    sources = list(of.parameters())
    close(torch.autograd.grad(weighted(mine), sources), torch.autograd.grad(weighted(exact), sources))


def test_both_together_and_a_single_step(drawn: list[Tensor]) -> None:
    of = recurrent(cells.lstm, 3, 4, recurrent_dropout=0.5, weight_dropout=0.5)
    x, (h, c) = inputs(of, 1, 2)
    plain = recurrent(cells.lstm, 3, 4)
    for call in (lambda: of(x, (h, c)), lambda: of.step(x[0], (h, c))):
        drawn.clear()
        output, _ = call()
        weights, units = drawn
        for row in range(2):
            own: dict[str, Tensor] = dict(of.named_parameters())
            own["weight_hh_l0"] = own["weight_hh_l0"] * weights * units[0, row]
            state = h[:, row : row + 1], c[:, row : row + 1]
            close(output.flatten(0, -2)[row], functional_call(plain, own, (x[:, row : row + 1], state))[0][0, 0])


@pytest.mark.parametrize("option", ["recurrent_dropout", "weight_dropout"])
def test_masks_have_the_share_and_the_mean_that_they_should(option: str, drawn: list[Tensor]) -> None:
    share: dict[str, Any] = {option: 0.25}
    of = recurrent(cells.gru, 3, 64, bidirectional=True, **share)
    x, h = inputs(of, 2, 50)
    for _ in range(2):
        of(x, *h)
    values = torch.cat([mask.flatten() for mask in drawn])
    assert set(values.tolist()) == {0.0, 1 / 0.75}
    zeros = float((values == 0).double().mean())
    assert abs(zeros - 0.25) < 6 * (0.25 * 0.75 / len(values)) ** 0.5
    first, *others = drawn
    assert all((first != other).any() for other in others)  # directions and calls


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("p", [0, 0.25, 1])
def test_masks_are_those_of_torch(p: float, dtype: torch.dtype) -> None:
    values = torch.full((200, 300), 3.0, dtype=dtype, requires_grad=True)
    found = inner_dropout.dropout(values, p)
    (gradient,) = torch.autograd.grad(found, values, torch.ones_like(found))
    assert found.dtype == gradient.dtype == dtype
    kept = gradient != 0
    assert abs(float(kept.double().mean()) - (1 - p)) <= 6 * (p * (1 - p) / values.numel()) ** 0.5
    scale = torch.ones((), dtype=dtype) / (1 - p or 1)
    assert gradient.equal(torch.where(kept, scale, 0))
    assert found.equal(values * gradient)


@pytest.mark.parametrize("option", ["recurrent_dropout", "weight_dropout"])
def test_without_effect_outside_training(option: str) -> None:
    share: dict[str, Any] = {option: 0.9}
    of = recurrent(cells.peephole_lstm, 3, 5, num_layers=2, bidirectional=True, **share)
    plain = recurrent(cells.peephole_lstm, 3, 5, num_layers=2, bidirectional=True)
    assert list(of.state_dict()) == list(plain.state_dict())
    x, states = inputs(of, 5, 2)
    assert not of(x, states)[0].equal(plain(x, states)[0])
    frozen = elman.freeze(of).train()
    of.eval()
    with torch.no_grad():
        assert of(x, states)[0].equal(plain(x, states)[0])
        close(frozen(x, states)[0], plain(x, states)[0])
    assert f"{option}=0.9" in repr(of)


@pytest.mark.parametrize("make", [elman.RNN, elman.LSTM, elman.GRU, elman.PeepholeLSTM, elman.CoupledLSTM])
def test_every_layer_has_the_options(make: Any) -> None:
    of = make(3, 4, recurrent_dropout=0.2, weight_dropout=0.1)
    assert (of.recurrent_dropout, of.weight_dropout) == (0.2, 0.1)
    assert all(
        torch.isfinite(gradient).all()
        for gradient in torch.autograd.grad(of(torch.randn(3, 2, 3))[0].sum(), of.parameters())
    )


def test_second_derivatives(drawn: list[Tensor]) -> None:
    of = recurrent(cells.gru, 2, 3, recurrent_dropout=0.3, weight_dropout=0.3)
    x, (h,) = inputs(of, 3, 2)

    def run(x: Tensor, h: Tensor) -> Tensor:
        torch.manual_seed(5)
        return of(x, h)[0]

    assert gradgradcheck(run, (x.requires_grad_(), h.requires_grad_()))


def test_a_trace_in_training() -> None:
    of = recurrent(cells.gru, 3, 4, num_layers=2, bidirectional=True, recurrent_dropout=0.5)
    x, (h,) = inputs(of, 5, 2)
    torch.manual_seed(1)
    output, _ = of(x, h)
    torch.manual_seed(1)
    found = elman.trace(of, x, h)
    close(found.output, output)
    close(torch.cat([each.states["h"] for each in found.recurrences[2:]], -1), output)


@pytest.mark.parametrize("name", [cell.name for cell in PLAIN])
def test_types_under_autocast_are_those_outside_training(name: str) -> None:
    of = recurrent(cells.BUILT_IN[name], 3, 4, dtype=torch.float32, recurrent_dropout=0.5, weight_dropout=0.5)
    x, _ = inputs(of, 5, 2)
    for engine in ("cpu", "reference"):
        with torch.autocast("cpu", torch.bfloat16), elman.use_engine(engine):
            types = [[t.dtype for t in (output, *as_tuple(h_n))] for output, h_n in (of.train()(x), of.eval()(x))]
        assert types[0] == types[1]


def made_anew(x: Any, R: Any, s: Any) -> State:
    return State(h=torch.tanh(x.a + R.a @ s.h))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_layer_that_was_read_again_is_compiled() -> None:
    """The compiler cannot look into locks, with which Python makes what a cell knows of itself."""
    cell = Cell(made_anew, gates=("a",))  # not found by name, so a pickle holds the record
    of = Recurrent(cell, 3, 4, recurrent_dropout=0.5)
    file = io.BytesIO()
    torch.save(of, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert again.cell is not cell
    x = torch.randn(5, 2, 3)
    compiled: Any = torch.compile(again, backend="eager", fullgraph=True)
    torch.manual_seed(1)
    output = compiled(x)[0]
    torch.manual_seed(1)
    close(output, of(x)[0])
    one = elman.RecurrentCell(Cell(made_anew, gates=("a",)), 3, 4)
    file = io.BytesIO()
    torch.save(one, file)
    file.seek(0)
    compiled = torch.compile(torch.load(file, weights_only=False), backend="eager", fullgraph=True)
    close(compiled(x[0]), one(x[0]))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_that_was_pickled_before_there_were_the_options(frozen: bool) -> None:
    of: Any = elman.freeze(elman.GRU(3, 4)) if frozen else elman.GRU(3, 4)
    state = {
        name: value for name, value in of.__getstate__().items() if name not in ("recurrent_dropout", "weight_dropout")
    }
    again: Any = object.__new__(type(of))
    again.__setstate__(state)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        assert again(x)[0].equal(of(x)[0])
    assert repr(again) == repr(of)


LOADED = """
import sys, torch, elman.operators
x, output = torch.load(sys.argv[2])
torch.testing.assert_close(torch.export.load(sys.argv[1]).module()(x)[0], output)
print("the same")
"""


def test_a_program_exported_in_training_runs_in_another_process(tmp_path: Path, forks: Forks) -> None:
    of = recurrent(cells.gru, 3, 4, recurrent_dropout=1)  # which leaves nothing to chance
    x, _ = inputs(of, 5, 2)
    torch.export.save(torch.export.export(of, (x,)), tmp_path / "program.pt2")
    torch.save((x, of(x)[0].detach()), tmp_path / "case.pt")
    (done,) = forks.run(Child(LOADED, (str(tmp_path / "program.pt2"), str(tmp_path / "case.pt"))))
    assert "the same" in done.stdout, done.stderr


def test_copies_share_the_cell() -> None:
    of = recurrent(cells.lstm, 3, 4, recurrent_dropout=0.5)
    assert copy.deepcopy(of).cell.masked is of.cell.masked is cells.lstm.masked


def test_a_wrong_weight_is_named() -> None:
    of = elman.LSTM(3, 4, recurrent_dropout=0.5)
    with pytest.raises(RuntimeError, match=r"weight_hh is \(16, 5\) but the cell 'lstm' .* needs \(16, 4\)"):
        functional_call(of, {"weight_hh_l0": torch.ones(16, 5)}, (torch.ones(5, 2, 3),))


def test_wrong_options() -> None:
    without = Cell(lambda x, s: State(h=torch.tanh(x.a + s.h)), gates=("a",), name="sums")
    for option in ("recurrent_dropout", "weight_dropout"):
        large: dict[str, Any] = {option: 1.5}
        several: dict[str, Any] = {option: [0.5]}
        small: dict[str, Any] = {option: 0.1}
        with pytest.raises(ValueError, match=rf"{option} should be a number in range \[0, 1\] .* got 1.5"):
            elman.LSTM(3, 4, **large)
        with pytest.raises(TypeError, match=f"{option} should be a number, got: list"):
            elman.GRU(3, 4, **several)
        with pytest.raises(ValueError, match=f"{option} needs a cell with recurrent products, and 'sums' has none"):
            Recurrent(without, 3, 4, **small)
    with pytest.raises(ValueError, match=r"'projected_lstm' projects it: got 0\.1; use weight_dropout instead"):
        elman.LSTM(3, 4, proj_size=2, recurrent_dropout=0.1)
