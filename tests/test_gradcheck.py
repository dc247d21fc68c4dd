"""Autograd through the layers against finite differences: first and second order, forward mode, vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, jvp, vjp, vmap

import elman
from cases import CELLS, DEPTH_NAMES, DEPTHS, LAYERS, as_tuple, close, hidden, inputs, layer, normal, run
from elman import Recurrent
from elman.cpu.layer import passes

STEPS, BATCH, INPUT, HIDDEN = 3, 2, 2, 2


def function_of_everything(of: Recurrent) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """Output and final states as a function of input, initial states and parameters; and where to take it."""
    x, states = inputs(of, STEPS, BATCH)
    names, parameters = zip(*of.named_parameters(), strict=True)

    def call(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, rest[len(states) :], strict=True))
        output, h_n = functional_call(of, given, (x, hidden(rest[: len(states)])))
        return (output, *as_tuple(h_n))

    return call, [value.detach().clone().requires_grad_() for value in (x, *states, *parameters)]


@pytest.mark.parametrize(("layers", "bidirectional"), DEPTHS, ids=DEPTH_NAMES)
@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name: str, layers: int, bidirectional: bool) -> None:
    of = layer(name, INPUT, HIDDEN, num_layers=layers, bidirectional=bidirectional)
    call, leaves = function_of_everything(of)
    # In reverse mode and numerically alike, every call runs the engine that is asked for here. What one layer hands to
    # the next is the same for both engines: a random combination of all derivatives shows whether it is right.
    with elman.use_engine("cpu"):
        assert torch.autograd.gradcheck(call, leaves, rtol=1e-6, atol=1e-7, fast_mode=layers > 1)
    with elman.use_engine("reference"):
        assert torch.autograd.gradcheck(call, leaves, rtol=1e-6, atol=1e-7, fast_mode=True)


@pytest.mark.parametrize("name", CELLS)
def test_the_engines_own_backward_was_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a graph of the gradient, backward is the kernels'; with one, it is the reference engine's."""
    backward, ran = passes.backward, []
    monkeypatch.setattr(passes, "backward", lambda *case: ran.append(case) or backward(*case))
    call, leaves = function_of_everything(layer(name, INPUT, HIDDEN))
    with elman.use_engine("cpu"):
        results = call(*leaves)
        cotangents = [normal(*r.shape, seed=k) for k, r in enumerate(results)]
        once = torch.autograd.grad(results, leaves, cotangents, retain_graph=True)
        assert len(ran) == 1
        twice = torch.autograd.grad(results, leaves, cotangents, create_graph=True)
        assert len(ran) == 1
    close(once, twice)
    assert all(d.requires_grad for d in twice)


@pytest.mark.parametrize("name", LAYERS)
def test_second_order(name: str) -> None:
    call, leaves = function_of_everything(layer(name, INPUT, HIDDEN))
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("name", LAYERS)
def test_forward_mode(name: str) -> None:
    """u . (J v) = (J^T u) . v for random u and v, and J v by finite differences."""
    call, leaves = function_of_everything(layer(name, INPUT, HIDDEN, num_layers=2, bidirectional=True))
    point = tuple(leaf.detach() for leaf in leaves)
    v = tuple(normal(*p.shape, seed=100 + k) for k, p in enumerate(point))
    results, tangents = jvp(call, point, v)[:2]
    u = tuple(normal(*r.shape, seed=200 + k) for k, r in enumerate(results))
    back = vjp(call, *point)[1](u)
    close(dot(u, tangents), dot(back, v))

    step = 1e-6
    ahead = call(*(p + step * d for p, d in zip(point, v, strict=True)))
    behind = call(*(p - step * d for p, d in zip(point, v, strict=True)))
    for tangent, a, b in zip(tangents, ahead, behind, strict=True):
        torch.testing.assert_close(tangent, (a - b) / (2 * step), rtol=1e-6, atol=1e-6)
        assert tangent.abs().max() > 0.1


def dot(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([(p * q).sum() for p, q in zip(a, b, strict=True)]).sum()


@pytest.mark.parametrize("name", CELLS)
def test_vmap_over_models(name: str) -> None:
    """An ensemble: parameters, inputs and states of three layers at once."""
    each = [layer(name, INPUT, HIDDEN, seed=seed, bidirectional=True) for seed in range(3)]
    data = [inputs(of, STEPS, BATCH, seed=seed) for seed, of in enumerate(each)]
    call, _ = function_of_everything(each[0])
    stacks = [
        torch.stack(values)
        for values in zip(
            *[(x, *states, *of.parameters()) for of, (x, states) in zip(each, data, strict=True)], strict=True
        )
    ]
    together = vmap(call)(*stacks)
    for k, (of, (x, states)) in enumerate(zip(each, data, strict=True)):
        close(tuple(r[k] for r in together), run(of, x, states))


@pytest.mark.parametrize("name", ["lstm", "peephole_lstm", "gru_before"])
def test_gradient_of_every_sequence_at_once(name: str) -> None:
    """vmap over grad: the parameters' gradient for each sequence of a batch."""
    of = layer(name, INPUT, HIDDEN)
    x, states = inputs(of, STEPS, 3)
    parameters = {k: p.detach() for k, p in of.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, *states: Tensor) -> Tensor:
        output, h_n = functional_call(of, parameters, (x, hidden(states)))
        return output.square().sum() + sum((k + 2) * h.square().sum() for k, h in enumerate(as_tuple(h_n)))

    unbatched = torch.func.grad(loss)
    all_at_once = vmap(unbatched, in_dims=(None, 1, *(1 for _ in states)))(parameters, x, *states)
    for b in range(3):
        alone = unbatched(parameters, x[:, b], *(s[:, b] for s in states))
        for key, value in alone.items():
            close(all_at_once[key][b], value)
            assert value.abs().max() > 1e-3


# Cotangents that are more than values: a graph that the kernels have made, differentiated by a transform.

BACKWARDS: dict[str, Callable[..., Any]] = {
    "is_grads_batched": lambda f, x: torch.autograd.grad(f(x), x, torch.eye(2, dtype=x.dtype), is_grads_batched=True)[
        0
    ],
    "jacobian": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "hessian": lambda f, x: torch.autograd.functional.hessian(lambda x: f(x).square().sum(), x, vectorize=True),
    "vmap of grad": lambda f, x: vmapped(f(x), x),
    "dual": lambda f, x: tangent(f(x), x),
}


def vmapped(y: Tensor, x: Tensor) -> Tensor:
    return vmap(lambda d: torch.autograd.grad(y, x, d, retain_graph=True)[0])(torch.eye(2, dtype=x.dtype))


def tangent(y: Tensor, x: Tensor) -> Tensor:
    """The tangent of a gradient, of a dual cotangent."""
    with forward_ad.dual_level():
        d_y = forward_ad.make_dual(normal(2, seed=5), normal(2, seed=6))
        found = forward_ad.unpack_dual(torch.autograd.grad(y, x, d_y)[0]).tangent
        assert found is not None, "the tangent was dropped"
        return found


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("name", ["peephole_lstm", "gru_before", "projected_lstm"])
def test_cotangents_that_are_batched_or_dual(name: str, backward: str) -> None:
    of = layer(name, INPUT, HIDDEN, bidirectional=True)
    x = inputs(of, STEPS, BATCH)[0].requires_grad_()

    def f(x: Tensor) -> Tensor:
        return of(x)[0].square().sum((0, 2))

    found = BACKWARDS[backward](f, x)
    with elman.use_engine("reference"):
        close(found, BACKWARDS[backward](f, x))
    assert found.abs().max() > 0.01
