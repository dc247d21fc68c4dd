"""The list of engines, and the choice of the one that runs a call. There is no mathematics here.

An engine either is made of operations that torch can differentiate (`Composed`), or has a backward pass of its own and
keeps in the forward pass what that needs. To add an engine, add it to `ENGINES` and to `PREFERENCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from elman import cpu, gpu, native, own_kernels, reference
from elman.layout import Call, Direction, Results, Weights
from elman.torch_private import recording_below_autograd

Gradients = list[Tensor | None]  # in the order of `Call.tensors`


class Engine(Protocol):
    """Something that can run a layer."""

    why: str  # the reason for choosing it, if it can run the call

    def unsupported(self, call: Call) -> str | None:
        """Why the engine cannot run a call; None if it can."""
        ...

    def at_once(self, call: Call) -> Results | None:
        """Runs the call and returns its results if the engine remembers calls of this form; else returns None.

        It is called only where no gradient is recorded. x may be a single step, (B, I); the output is then (B, D*Y).
        """
        ...

    def infer(self, call: Call) -> Results:
        """Returns the results, where no gradient is wanted."""
        ...

    def forward(self, call: Call) -> tuple[Results, list[Tensor]]:
        """Returns the results, and the tensors that `backward` takes as `saved`."""
        ...

    def saves(self, call: Call) -> list[tuple[Any, torch.dtype]]:
        """The shapes and types of the tensors that `forward` saves. The sizes of the call may be torch's symbols."""
        ...

    def backward(
        self,
        call: Call,
        output: Tensor,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> Gradients:
        """The gradients marked in `needed`; `cotangents` are the gradients of the output and of every final state."""
        ...


class Composed:
    """An engine made of torch's own operations. It saves nothing: backward runs forward again and differentiates it."""

    def __init__(self, why: str, unsupported: Callable[[Call], str | None], run: Callable[[Call], Results]) -> None:
        self.why, self._unsupported, self._run = why, unsupported, run

    def unsupported(self, call: Call) -> str | None:
        return self._unsupported(call)

    def run(self, call: Call) -> Results:
        """Returns the results, which torch can differentiate. Under autocast their dtypes are those of torch.nn."""
        if call.autocast is None:
            return self._run(call)
        # Weights are cast here: autocast's own cache would keep casts that were made without a gradient.
        directions = tuple([Direction(_cast(weights, call.autocast), reverse) for weights, reverse in call.directions])
        with torch.autocast(call.x.device.type, call.autocast, cache_enabled=False):
            results = self._run(call._replace(directions=directions))
        return native.typed(results, native.types(call))

    def at_once(self, call: Call) -> Results | None:
        return None

    def infer(self, call: Call) -> Results:
        with torch.no_grad():
            return self.run(call)

    def forward(self, call: Call) -> tuple[Results, list[Tensor]]:
        return self.infer(call), []

    def saves(self, call: Call) -> list[tuple[Any, torch.dtype]]:
        return []

    def backward(
        self,
        call: Call,
        output: Tensor,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> Gradients:
        with recording_below_autograd():
            own = [
                t if t is None else t.detach().requires_grad_(want)
                for t, want in zip(call.tensors(), needed, strict=True)
            ]
            return self.gradients(call.replaced(own), cotangents, needed, again=False)

    def gradients(
        self, call: Call, cotangents: Sequence[Tensor | None], needed: Sequence[bool], again: bool = True
    ) -> Gradients:
        """The gradients marked in `needed`. With `again` they can be differentiated once more."""
        with torch.enable_grad():
            output, finals = self.run(call)
        given = zip((output, *finals), cotangents, strict=True)
        pairs = [(result, d) for result, d in given if d is not None and result.requires_grad]
        if not pairs:  # no result that has a cotangent depends on a tensor whose gradient is needed
            return [None] * len(needed)
        sources = [t for t, wanted in zip(call.tensors(), needed, strict=True) if wanted and t is not None]
        values, d_values = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(values, sources, d_values, create_graph=again, allow_unused=True))
        return [next(found) if wanted else None for wanted in needed]


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    """The weights, with matrices and biases cast to dtype. The vectors `ch`, used elementwise, keep their dtype."""
    return Weights(*[w if w is None else w.to(dtype) for w in weights[:-1]], ch=weights.ch)


REFERENCE = Composed("the loop over time in plain PyTorch", reference.unsupported, reference.run)
ENGINES: dict[str, Engine] = {
    "reference": REFERENCE,
    "native": Composed("torch's own kernel for the cell", native.unsupported, native.run),
    "cpu": cpu.ENGINE,
    "gpu": gpu.ENGINE,
}

# The engines to try on each kind of device, the fastest first; ELSEWHERE is for all other devices. The reference engine
# is last, since it can run every call.
PREFERENCES = {
    "cpu": ("cpu", "reference"),
    "cuda": ("gpu", "native", "reference"),
    "cuda, where cuDNN is faster": ("native", "gpu", "reference"),
}
ELSEWHERE = ("native", "reference")


class Choice(NamedTuple):
    """The name of an engine, and the reason why it was chosen."""

    engine: str
    why: str


# For each kind of device, its engines in order: the function to ask whether the engine can run a call, and the choice
# to return if this is the first engine.
_TABLES = {
    device: tuple([(ENGINES[name].unsupported, Choice(name, ENGINES[name].why)) for name in engines])
    for device, engines in (*PREFERENCES.items(), ("", ELSEWHERE))
}


def choose(call: Call, forced: str = "auto") -> Choice:
    """Chooses the engine for a call: the forced one, else the first engine for its device that can run it.

    Raises RuntimeError if the forced engine cannot run the call. No other engine silently takes its place.
    """
    if forced != "auto":
        problem = ENGINES[forced].unsupported(call)
        if problem:
            raise RuntimeError(
                f'the engine {forced!r} was asked for but cannot run this: {problem}; use_engine("auto") would choose one that can'
            )
        return Choice(forced, "asked for with use_engine")
    why = ""
    device = "cpu" if call.x.is_cpu else call.x.device.type
    if device == "cuda" and gpu.cudnn_is_faster(call):
        device = "cuda, where cuDNN is faster"
    for unsupported, choice in _TABLES[device if device in _TABLES else ""]:
        problem = unsupported(call)
        if problem is None:
            if why and choice.engine == "reference":
                own_kernels.warn_if_slow(call, why)
            return Choice(choice.engine, why) if why else choice
        why = why or problem
    raise RuntimeError(why)
