"""What PyTorch sees of a layer: three operators, for its compiler, its exporter and its tracers.

    elman::infer     (the call) -> output, final states
    elman::forward   (the call) -> output, final states, and what backward needs besides
    elman::backward  (the call, output, saved, cotangents, given, needed) -> gradients

And elman::viterbi, which elman/viterbi.py defines: programs that were exported find all operators behind this module.

"The call" stands for the parts of a `layout.Call`: its tensors, and names, dtypes and flags, which depend on the layer
and never on T or B. So the shapes of all results are known beforehand. Where tensors are ordinary ones with values, the
same functions are called without the dispatcher, which would cost as much time as a short sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

import elman.viterbi  # noqa: F401
from elman import names, native
from elman.engines import ENGINES, REFERENCE, Composed, Engine, Gradients
from elman.layout import Call, Direction, Results, Weights, misfit
from elman.torch_private import functorch_active, in_dispatch_mode, in_forward_mode, is_legacy_batched

# A list of weights has one tensor for each direction. Where there are none it is None and not empty: AOTInductor does
# not pass on empty lists.
KINDS = tuple(f"Tensor[]? {field}" for field in Weights._fields)
CALL = f"""str cell, str engine, ScalarType? autocast, bool[] reverse, Tensor x, {", ".join(KINDS)}, \
Tensor[] state, Tensor[]? streams, Tensor[]? constants, Tensor? lengths, Tensor? reset, Tensor[]? afresh"""

library = torch.library.Library("elman", "DEF")
library.define(f"infer({CALL}) -> Tensor[]")
library.define(f"forward({CALL}) -> Tensor[]")
# given: for the output and every final state, whether it has a cotangent. cotangents: those that exist, in this order.
# needed: for each of `Call.tensors()`, whether its gradient is wanted.
# `cotangents` is not a Tensor?[], since such a list loses its gradients when it is an input. As a result it works.
library.define(
    f"backward({CALL}, Tensor output, Tensor[] saved, Tensor[] cotangents, bool[] given, bool[] needed) -> Tensor?[]"
)


def run(name: str, call: Call) -> Results:
    """Runs one layer on the engine of that name. Results are differentiable with respect to every tensor of the call.

    Raises RuntimeError for a weight or a state whose shape, dtype or device does not fit.
    """
    if torch.compiler.is_compiling():
        if transformed():
            return REFERENCE.run(call)  # the transform has to see the single operations
        return _by_operator(name, call)
    engine, recording = ENGINES[name], records(call)
    if not recording:
        done = engine.at_once(call)
        if done is not None:
            return done
    problem = misfit(call)
    if problem:
        raise RuntimeError(problem)
    if isinstance(engine, Composed):
        return engine.run(call)
    if type(call.x) is not Tensor or in_dispatch_mode():
        return _by_operator(name, call)
    if recording:
        output, *finals = _Layer.apply(name, call, *call.tensors())
        return output, tuple(finals)
    return engine.infer(call)


def records(call: Call) -> bool:
    """Whether autograd has to record the call."""
    if not torch.is_grad_enabled():
        return False
    # `enable_grad` inside inference mode does not end inference mode, so that is asked for separately. The compiler
    # cannot ask for it, and need not.
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        return False
    return any(t is not None and t.requires_grad for t in call.tensors())


def transformed() -> bool:
    """Whether vmap, grad, jvp or forward-mode differentiation is active."""
    return functorch_active() or in_forward_mode()


def _by_operator(name: str, call: Call) -> Results:
    operator = torch.ops.elman.forward if records(call) and not torch.compiler.is_exporting() else torch.ops.elman.infer
    output, *rest = operator(*arguments(name, call))
    return output, tuple(rest[: len(call.state)])


def arguments(name: str, call: Call) -> tuple[Any, ...]:
    """The arguments of the operators for a call, in the order of `CALL`."""
    kinds = [[weight for weight in weights if weight is not None] or None for weights in _by_kind(call)]
    key = names.hold(call.cell.key or names.register(call.cell))
    rest = list(call.state), list(call.streams) or None, list(call.constants) or None, call.lengths, call.reset
    rest = *rest, list(call.afresh) or None
    return key, name, call.autocast, call.reverse, call.x, *kinds, *rest


def _by_kind(call: Call) -> list[tuple[Any, ...]]:
    """For each field of `Weights`, its value in every direction."""
    return list(zip(*[weights for weights, _ in call.directions], strict=True))


def together(*arguments: Any) -> tuple[str, Call]:
    """The inverse of `arguments`: returns the engine's name and the call."""
    key, name, autocast, reverse, x, *kinds = arguments[: 5 + len(KINDS)]
    state, streams, constants, lengths, reset, afresh = arguments[5 + len(KINDS) :]
    directions = tuple(
        [Direction(Weights(*[kind[d] if kind else None for kind in kinds]), back) for d, back in enumerate(reverse)]
    )
    rest = tuple(state), tuple(streams or ()), tuple(constants or ()), lengths, reset, tuple(afresh or ())
    return name, Call(names.find(key), x, directions, *rest, autocast)


def _grouped(call: Call, by_tensor: Sequence[Any]) -> tuple[Any, ...]:
    """Arranges one value for every tensor of a call, such as its gradient, like the arguments of the operators."""
    own = call.replaced(by_tensor)
    kinds = [
        [value for value, weight in zip(values, weights, strict=True) if weight is not None] or None
        for values, weights in zip(_by_kind(own), _by_kind(call), strict=True)
    ]
    rest = list(own.state), list(own.streams) or None, list(own.constants) or None, own.lengths, own.reset
    rest = *rest, list(own.afresh) or None
    return None, None, None, None, own.x, *kinds, *rest


# The implementations of the operators.


def _checked(name: str, call: Call) -> Engine:
    """Checks a call, and returns its engine. Raises RuntimeError if the engine cannot run the call."""
    problem = misfit(call) or ENGINES[name].unsupported(call)
    if problem:
        raise RuntimeError(problem)
    if in_forward_mode():
        duals = [t for t in call.tensors() if t is not None and forward_ad.unpack_dual(t).tangent is not None]
        if duals:
            raise RuntimeError(
                "forward-mode differentiation cannot go through a compiled or exported layer; call the layer itself"
            )
    return ENGINES[name]


def _infer(*arguments: Any) -> list[Tensor]:
    name, call = together(*arguments)
    done = ENGINES[name].at_once(call) if not in_forward_mode() else None
    output, finals = _checked(name, call).infer(call) if done is None else done
    return [output, *finals]


def _forward(*arguments: Any) -> list[Tensor]:
    name, call = together(*arguments)
    (output, finals), saved = _checked(name, call).forward(call)
    return [output, *finals, *saved]


def _backward(*arguments: Any) -> Gradients:
    *of_call, output, saved, cotangents, given, needed = arguments
    name, call = together(*of_call)
    d = iter(cotangents)
    found = _checked(name, call).backward(call, output, saved, [next(d) if there else None for there in given], needed)
    # A tensor on which no result depends has a gradient of zero.
    of_tensors = zip(call.tensors(), found, needed, strict=True)
    return [torch.zeros_like(t) if want and d is None and t is not None else d for t, d, want in of_tensors]


for _name, _does in (("infer", _infer), ("forward", _forward), ("backward", _backward)):
    library.impl(_name, _does, "CompositeExplicitAutograd")


# The shapes of the results, for tensors without values.


def _shapes(call: Call) -> list[Tensor]:
    (steps, batch, _), directions, types = call.x.shape, len(call.directions), native.types(call)
    width = call.state[0].shape[-1]
    finals = [s.new_empty(s.shape, dtype=kind) for s, kind in zip(call.state, types, strict=True)]
    return [call.x.new_empty((steps, batch, directions * width), dtype=types[0]), *finals]


def _fitting(*arguments: Any) -> tuple[Any, Call]:
    name, call = together(*arguments)
    problem = misfit(call)
    if problem:
        raise RuntimeError(problem)
    return ENGINES[name], call


@torch.library.register_fake("elman::infer", lib=library)
def _(*arguments: Any) -> list[Tensor]:
    return _shapes(_fitting(*arguments)[1])


@torch.library.register_fake("elman::forward", lib=library)
def _(*arguments: Any) -> list[Tensor]:
    engine, call = _fitting(*arguments)
    return [*_shapes(call), *(call.x.new_empty(shape, dtype=dtype) for shape, dtype in engine.saves(call))]


@torch.library.register_fake("elman::backward", lib=library)
def _(*arguments: Any) -> Gradients:
    *of_call, _output, _saved, _cotangents, _given, needed = arguments
    tensors = _fitting(*of_call)[1].tensors()
    return [t.new_empty(t.shape) if want and t is not None else None for t, want in zip(tensors, needed, strict=True)]


# The derivative, with and without the dispatcher: what forward keeps of a call, and how gradients are made from it.


def _keep(
    ctx: Any, name: str, call: Call, tensors: Sequence[Tensor | None], output: Tensor, saved: Sequence[Tensor]
) -> None:
    ctx.engine, ctx.bare = name, call.bare()
    ctx.holder = call.cell.holder  # its step may run in backward, when no layer is left
    ctx.needed = [t is not None and t.requires_grad for t in tensors]
    ctx.save_for_backward(*tensors, output, *saved)
    ctx.set_materialize_grads(False)


def _kept(ctx: Any) -> tuple[Call, Tensor, list[Tensor]]:
    tensors, count = ctx.saved_tensors, len(ctx.needed)
    return ctx.bare.replaced(tensors[:count]), tensors[count], list(tensors[count + 1 :])


def _by_reference(ctx: Any, call: Call, cotangents: Sequence[Tensor | None]) -> Gradients | None:
    """The gradients by the reference engine, if an engine's own backward pass cannot give them; else None.

    It cannot if the gradients are to be differentiated again, under a transform, or for batched cotangents. A legacy
    batched tensor comes from autograd's own vmap, which `is_grads_batched` uses.
    """
    again = torch.is_grad_enabled()
    if again or transformed() or any(d is not None and is_legacy_batched(d) for d in cotangents):
        return REFERENCE.gradients(call, cotangents, ctx.needed, again)
    return None


class _Layer(torch.autograd.Function):
    """The operator `elman::forward` and its derivative, called without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, name: str, call: Call, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        (output, finals), saved = ENGINES[name].forward(call)
        _keep(ctx, name, call, tensors, output, saved)
        return output, *finals

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        call, output, saved = _kept(ctx)
        found = _by_reference(ctx, call, cotangents)
        if found is None:
            found = ENGINES[ctx.engine].backward(call, output, saved, cotangents, ctx.needed)
        return None, None, *found


def _keep_operator(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    name, call = together(*inputs)
    _keep(ctx, name, call, call.tensors(), output[0], output[1 + len(call.state) :])


def _differentiate(ctx: Any, cotangents: Sequence[Tensor | None]) -> tuple[Any, ...]:
    call, output, saved = _kept(ctx)
    cotangents = cotangents[: 1 + len(call.state)]
    found = _by_reference(ctx, call, cotangents)
    if found is None:
        found = _backward_operator(ctx.engine, call, output, saved, cotangents, ctx.needed)
    return _grouped(call, found)


def _differentiate_infer(ctx: Any, cotangents: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The derivative of `infer`, which has kept nothing. So it runs `forward` first, for what backward needs."""
    call, _, _ = _kept(ctx)
    found = _by_reference(ctx, call, cotangents)
    if found is None:
        output, *rest = torch.ops.elman.forward(*arguments(ctx.engine, call))
        saved = rest[len(call.state) :]
        found = _backward_operator(ctx.engine, call, output, saved, cotangents, ctx.needed)
    return _grouped(call, found)


def _backward_operator(
    name: str,
    call: Call,
    output: Tensor,
    saved: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> Gradients:
    given = [d for d in cotangents if d is not None]
    there = [d is not None for d in cotangents]
    return torch.ops.elman.backward(*arguments(name, call), output, saved, given, there, needed)


torch.library.register_autograd("elman::forward", _differentiate, setup_context=_keep_operator, lib=library)
torch.library.register_autograd("elman::infer", _differentiate_infer, setup_context=_keep_operator, lib=library)
