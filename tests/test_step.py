"""One step at a time, frozen layers, and the short way that inference takes where nothing is out of the ordinary."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import elman
from cases import CELLS, as_tuple, close, gradients, hidden, inputs, layer, normal, run
from elman import Recurrent
from elman.cpu.layer import passes, short_calls
from elman.cpu.scripts.script import Script
from test_cpu import neg_view, zero_tensor


def by_steps(of: Any, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """As `cases.run`, step by step."""
    outputs, state = [], hidden(states)
    for x_t in x:
        output, state = of.step(x_t, state)
        outputs.append(output)
    return (torch.stack(outputs), *as_tuple(state))


# Every cell with every batch, in one layer or in two.
@pytest.mark.parametrize(
    ("name", "batch", "layers"),
    [(name, batch, 1 + (k + n) % 2) for k, name in enumerate(CELLS) for n, batch in enumerate((1, 3, 12))],
)
def test_steps_are_the_sequence(name: str, batch: int, layers: int) -> None:
    of = layer(name, 5, 19, num_layers=layers)
    x, states = inputs(of, 6, batch)
    expected = run(of, x, states)
    with torch.no_grad():
        close(by_steps(of, x, states), expected)
    close(by_steps(of, x, states), expected)  # where a gradient is recorded
    with torch.no_grad():
        close(by_steps(elman.freeze(of), x, states), expected)


def test_gradients_go_through_steps() -> None:
    of = layer("gru", 3, 7)
    x, states = inputs(of, 5, 2)

    class Stepping(nn.Module):
        def parameters(self, recurse: bool = True) -> Any:
            return of.parameters()

        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
            output, final = by_steps(of, x, (h,))
            return output, final

    close(gradients(Stepping(), x, states), gradients(of, x, states))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("no_grad", [False, True])
def test_shapes_of_a_step(batch_first: bool, no_grad: bool) -> None:
    of = layer("lstm", 5, 4, batch_first=batch_first)
    x, states = inputs(of, 1, 3)
    with torch.set_grad_enabled(not no_grad):
        for each in (of, elman.freeze(of)) if no_grad else (of,):
            output, (h, c) = each.step(x[0], states)
            assert (output.shape, h.shape, c.shape) == ((3, 4), (1, 3, 4), (1, 3, 4))
            close(output, h[0])
            lone, (h_1, _) = each.step(x[0, 1], tuple(s[:, 1] for s in states))
            assert (lone.shape, h_1.shape) == ((4,), (1, 4))
            close(lone, output[1])
            zero, _ = each.step(x[0])
            close(zero, each.step(x[0], tuple(torch.zeros_like(s) for s in states))[0])
            assert h.data_ptr() != output.data_ptr()


def test_one_state_in_a_tuple() -> None:
    of = layer("gru", 5, 4).requires_grad_(False)
    x, (h,) = inputs(of, 1, 3)
    for each in (of, elman.freeze(of)):
        close(each.step(x[0], (h,)), each.step(x[0], h))


# Every cell with all sizes, in one direction or in both.
@pytest.mark.parametrize(
    ("name", "bidirectional", "sizes"),
    [
        pytest.param(name, (k + n) % 2 == 0, sizes, id=f"{name}-{(k + n) % 2 == 0}-{sizes}")
        for k, name in enumerate(("rnn", "coupled_peephole_lstm", "gru_before"))
        for n, sizes in enumerate(((1, 1, 33), (7, 3, 19), (40, 12, 64), (2000, 4, 70)))
    ],
)
def test_frozen_layers(name: str, bidirectional: bool, sizes: tuple[int, int, int]) -> None:
    """Twice, the second time from panels; another length in between. More than eight rows: to the bit."""
    steps, batch, units = sizes
    of = layer(name, 5, units, num_layers=2, bidirectional=bidirectional, dtype=torch.float32)
    frozen = elman.freeze(of)
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        try:
            for count in (steps, max(1, steps // 2), steps):
                x, states = inputs(of, count, batch, seed=count)
                with torch.no_grad():
                    mine, expected = run(frozen, x, states), run(of, x, states)
                if count * batch > 8:
                    assert all(torch.equal(a, b) for a, b in zip(mine, expected, strict=True))
                else:
                    torch.testing.assert_close(mine, expected)
        finally:
            torch.set_num_threads(1)


def test_few_frozen_rows_are_the_rows_of_many_to_the_bit() -> None:
    of = layer("lstm", 40, 67, dtype=torch.float32)
    x, states = inputs(of, 1, 20)
    with torch.no_grad():
        many = run(of, x, states)
        one = run(elman.freeze(of), x[:, 3:4], tuple(s[:, 3:4] for s in states))
    assert all(torch.equal(a, b[:, 3:4]) for a, b in zip(one, many, strict=True))


def test_a_frozen_layer_is_a_copy() -> None:
    of = layer("gru", 5, 19)
    x, states = inputs(of, 6, 3)
    with torch.no_grad():
        before = run(of, x, states)
        frozen, later = elman.freeze(of), elman.freeze(of)
        assert all(torch.equal(a, b) for a, b in zip(run(frozen, x, states), before, strict=True))
        of.get_parameter("weight_hh_l0").mul_(2)
        of.get_parameter("weight_ih_l0").data = torch.zeros(57, 5, dtype=torch.float64)
        for each in (frozen, later, copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
            assert all(torch.equal(a, b) for a, b in zip(run(each, x, states), before, strict=True))
            by_step = by_steps(each, x, states)
            close(by_step, before)
        assert not torch.equal(run(of, x, states)[0], before[0])
    assert not list(frozen.parameters())
    with pytest.warns(UserWarning, match=r"GRU\(.*\) is frozen .*state_dict is empty; keep the layer"):
        assert not frozen.state_dict()
    assert elman.freeze(frozen) is frozen
    assert "weights as they were when it was frozen" in repr(nn.Sequential(frozen))


def test_a_frozen_layer_by_another_engine() -> None:
    of = layer("lstm", 5, 19)
    x, states = inputs(of, 6, 3)
    frozen = elman.freeze(of)
    with torch.no_grad():
        expected = run(of, x, states)
        with elman.use_engine("reference"):
            close(run(frozen, x, states), expected)


@pytest.mark.parametrize("of", ["input", "state"])
def test_a_frozen_layer_gives_no_gradient(of: str) -> None:
    frozen = elman.freeze(elman.GRU(3, 4))
    x, h = torch.randn(2, 1, 3), torch.randn(1, 1, 4)
    (x if of == "input" else h).requires_grad_()
    for call in (lambda: frozen(x, h), lambda: frozen.step(x[0], h)):
        with pytest.raises(
            RuntimeError, match="gives no gradients, but its input, state or stream requires one; call the layer"
        ):
            call()
    assert not frozen(x.detach(), h.detach())[0].requires_grad


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (
            lambda: elman.LSTM(3, 4).half(),
            "its kernels read float32 and float64, and the weights are torch.float16; convert",
        ),
        (lambda: elman.LSTM(3, 4, device="meta"), "it is for the CPU, and the input is on meta"),
    ],
)
def test_what_cannot_be_frozen(of: Callable[[], Recurrent], why: str) -> None:
    with pytest.raises(RuntimeError, match=f"LSTM cannot be frozen for the engine 'cpu': {why}"):
        elman.freeze(of())


@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_of_a_step_that_do_not_fit(batch_first: bool) -> None:
    of = elman.GRU(3, 4, batch_first=batch_first)
    wrong: list[tuple[Any, str]] = [(True, r"\(\)"), ([True], r"\(1,\)"), ([[True, False]], r"\(1, 2\)")]
    for reset, shape in wrong:
        with pytest.raises(RuntimeError, match=rf"GRU: reset is {shape} but must be \(2,\), a value for each sequence"):
            of.step(torch.zeros(2, 3), reset=reset)
    with pytest.raises(RuntimeError, match=r"reset is \(1,\) but must be \(\)"):
        of.step(torch.zeros(3), reset=[True])
    of.step(torch.zeros(3), reset=True)


def test_wrong_steps() -> None:
    of = elman.LSTM(3, 4)
    h = torch.zeros(1, 2, 4)
    for each in (of, elman.freeze(of)):
        with torch.no_grad():
            with pytest.raises(ValueError, match=r"one step should be \(B, 3\) or \(3,\), got \(1, 2, 3\)"):
                each.step(torch.zeros(1, 2, 3), (h, h))
            with pytest.raises(RuntimeError, match=r"Expected 3, got 5: input is \(2, 5\)"):
                each.step(torch.zeros(2, 5), (h, h))
            with pytest.raises(RuntimeError, match="hx must be a tuple of 2 tensors"):
                each.step(torch.zeros(2, 3), h)
            with pytest.raises(RuntimeError, match=r"Expected hidden\[1\] size \(1, 2, 4\), got \[1, 1, 4\]"):
                each.step(torch.zeros(2, 3), (h, h[:, :1]))
            with pytest.raises(
                RuntimeError, match=r"input tensor at cpu and hidden tensor at meta; move it: h.to\('cpu'\)"
            ):
                each.step(torch.zeros(2, 3), (h.to("meta"), h))
            wrong: Any
            for wrong in ((h, None), {"h": h, "c": h}, 0.0):
                with pytest.raises(TypeError, match="hx must be a tuple of 2 tensors"):
                    each.step(torch.zeros(2, 3), wrong)
            for wrong in (pack_sequence([torch.zeros(2, 3)]), [[0.0] * 3] * 2):
                with pytest.raises(TypeError, match="input must be a tensor, got "):
                    each.step(wrong, (h, h))
    with pytest.raises(RuntimeError, match="GRU is bidirectional: its reverse direction begins at the end"):
        elman.GRU(3, 4, bidirectional=True).step(torch.zeros(2, 3))


# The short way.


def same(of: Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> None:
    with elman.use_engine("reference"), torch.no_grad():
        expected = run(of, x, states)
    with torch.no_grad():
        close(run(of, x, states), expected)


def test_weights_are_read_at_every_call() -> None:
    """In whatever way they were changed."""
    of = layer("lstm", 5, 19)
    x, states = inputs(of, 6, 3)
    same(of, x, states)
    with torch.no_grad():
        of.get_parameter("weight_hh_l0").add_(0.1)
    same(of, x, states)
    of.weight_hh_l0.data = normal(19, 76, seed=3).t()  # other strides
    same(of, x, states)
    of.get_parameter("weight_ih_l0").detach().numpy()[:] *= 0.5
    same(of, x, states)
    of.bias_hh_l0 = nn.Parameter(normal(76, seed=4))
    same(of, x, states)
    nn.utils.parametrizations.weight_norm(of, "weight_hh_l0")
    same(of, x, states)


def test_layouts_and_marks() -> None:
    """First the plain ones, so that what was found out about these is not taken for the others."""
    of = layer("gru", 4, 4)
    x, states = inputs(of, 4, 4)
    same(of, x, states)
    for other in (x.transpose(0, 1), x.transpose(1, 2), x[:, :, :1].expand(4, 4, 4), x[::2], x.flip(0)):
        same(of, other, states)
    same(of, x, tuple(s.transpose(1, 2) for s in states))
    same(of, neg_view(x), states)
    same(of, zero_tensor(x.shape, dtype=x.dtype), states)
    same(of, x, tuple(neg_view(s) for s in states))


def test_the_short_way_knows_types() -> None:
    """Two layers of the same sizes, whose numbers are not of the same type."""
    for dtype in (torch.float32, torch.float64, torch.float32):
        of = layer("gru", 4, 5, dtype=dtype)
        x, states = inputs(of, 3, 2)
        with torch.no_grad():
            found = run(of, x, states)
            with elman.use_engine("reference"):
                torch.testing.assert_close(found, run(of, x, states))


def test_ordinary_inference_takes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []
    infer = short_calls.infer

    def watched(*case: Any) -> Any:
        done = infer(*case)
        taken.append(done is not None)
        return done

    monkeypatch.setattr(short_calls, "infer", watched)
    of = layer("lstm", 5, 19, bidirectional=True, dtype=torch.float32)
    x, states = inputs(of, 6, 3)
    run(of, x, states)
    assert taken == []
    with torch.no_grad():
        run(of, x, states)
        with torch.autocast("cpu"):
            run(of, x, states)
        with elman.use_engine("reference"):
            run(of, x, states)
    with torch.inference_mode():
        run(of, x, states)
    assert taken == [True, True]


def test_the_short_way_counts_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script is written for so many threads; with another number there is another script."""
    of = layer("lstm", 64, 256, dtype=torch.float32)
    x, states = inputs(of, 40, 16)
    asked: list[int] = []
    taking = Script.taking
    monkeypatch.setattr(Script, "taking", lambda self, names: asked.append(self._threads) or taking(self, names))
    with torch.no_grad():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            try:
                run(of, x, states)
            finally:
                torch.set_num_threads(1)
    assert asked == [1, 2]


def test_the_short_way_knows_the_direction() -> None:
    """Two calls that differ in the direction only."""
    of = layer("gru", 5, 19)
    x, states = inputs(of, 6, 3)
    call = of.call(0, x, states)
    back = call._replace(directions=(call.directions[0]._replace(reverse=True),))
    with torch.no_grad():
        for each in (call, back, call):
            found = short_calls.infer(each)
            assert found is not None
            close(found[0], passes.infer(each)[0])
    assert not torch.equal(passes.infer(call)[0], passes.infer(back)[0])


def test_a_default_device_is_not_the_engines() -> None:
    of = layer("lstm", 5, 19)
    x, states = inputs(of, 6, 3)
    expected = run(of, x, states)
    gradient = gradients(of, x, states)
    with torch.device("meta"):
        close(run(of, x, states), expected)
        with torch.no_grad():
            close(run(of, x, states), expected)
            close(
                run(of, torch.cat([x.to("cpu")] * 2, 1), tuple(torch.cat([s] * 2, 1) for s in states))[0][:, :3],
                expected[0],
            )
    close(gradients(of, x, states), gradient)


@pytest.mark.parametrize("no_grad", [False, True])
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            torch.ones(3, 3),
            r"weight_hh is \(3, 3\) but the cell 'lstm' with input_size=3 and hidden_size=4 needs \(16, 4\)",
        ),
        (torch.ones(16, 4).double(), "weight_hh is torch.float64 but the input is torch.float32; convert one"),
        (torch.ones(16, 4, device="meta"), "input tensor at cpu and parameter tensor weight_hh at meta; move one"),
        (torch.ones(16, 4).to_sparse(), "weight_hh has the layout torch.sparse_coo but must be dense"),
    ],
    ids=["shape", "dtype", "device", "sparse"],
)
def test_a_weight_that_does_not_fit_is_named(weight: Tensor, message: str, no_grad: bool) -> None:
    of = elman.LSTM(3, 4)
    of.weight_hh_l0 = nn.Parameter(weight)
    with torch.set_grad_enabled(not no_grad), pytest.raises(RuntimeError, match=message):
        of(torch.randn(2, 1, 3))
