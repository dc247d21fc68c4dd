"""The engines there are, and which of them runs a call. No maths here.

An engine either is made of operations that torch can differentiate (`Composed`), or it keeps of a forward pass
what its own backward pass needs. Adding one is adding it to `ENGINES` and to `PREFERENCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from elman import cpu, native, reference
from elman.layout import Call, Direction, Results, Weights

Gradients = list[Tensor | None]  # in the order of `Call.tensors`


class Engine(Protocol):
    """Who runs a layer."""

    why: str  # the reason to take it, where it can run a call

    def unsupported(self, call: Call) -> str | None:
        """Why it cannot run a call, or None."""
        ...

    def at_once(self, call: Call) -> Results | None:
        """The results, where no gradient is recorded and the engine remembers calls of this form; else None.

        x may also be one step, (B, I), and the output is then (B, D*Y).
        """
        ...

    def infer(self, call: Call) -> Results:
        """The results; no gradient is asked for."""
        ...

    def forward(self, call: Call) -> tuple[Results, list[Tensor]]:
        """The results, and what `backward` is to be given besides."""
        ...

    def saves(self, call: Call) -> list[tuple[Any, ...]]:
        """The shapes of what `forward` keeps for a call, whose sizes may be torch's symbols."""
        ...

    def backward(
        self,
        call: Call,
        output: Tensor,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> Gradients:
        """The gradients that are needed, given those of the output and of every final state."""
        ...


class Composed:
    """An engine made of torch's own operations: it keeps nothing, and differentiates by running once more."""

    def __init__(self, why: str, unsupported: Callable[[Call], str | None], run: Callable[[Call], Results]) -> None:
        self.why, self._unsupported, self._run = why, unsupported, run

    def unsupported(self, call: Call) -> str | None:
        return self._unsupported(call)

    def run(self, call: Call) -> Results:
        """The results, which torch can differentiate; under autocast, of the types that torch.nn gives."""
        if call.autocast is None:
            return self._run(call)
        # Weights are cast here: autocast's own cache would keep casts that were made without a gradient.
        directions = tuple([Direction(_cast(weights, call.autocast), reverse) for weights, reverse in call.directions])
        with torch.autocast(call.x.device.type, call.autocast, cache_enabled=False):
            output, finals = self._run(call._replace(directions=directions))
        types = native.types(call)
        return output.to(types[0]), tuple([final.to(kind) for final, kind in zip(finals, types, strict=True)])

    def at_once(self, call: Call) -> Results | None:
        return None

    def infer(self, call: Call) -> Results:
        with torch.no_grad():
            return self.run(call)

    def forward(self, call: Call) -> tuple[Results, list[Tensor]]:
        return self.infer(call), []

    def saves(self, call: Call) -> list[tuple[Any, ...]]:
        return []

    def backward(
        self,
        call: Call,
        output: Tensor,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> Gradients:
        with _recording():
            own = [
                t if t is None else t.detach().requires_grad_(want)
                for t, want in zip(call.tensors(), needed, strict=True)
            ]
            return self.gradients(call.replaced(own), cotangents, needed, again=False)

    def gradients(
        self, call: Call, cotangents: Sequence[Tensor | None], needed: Sequence[bool], again: bool = True
    ) -> Gradients:
        """The gradients that are needed, with a graph of their own if they are to be differentiated `again`."""
        with torch.enable_grad():
            output, finals = self.run(call)
        given = zip((output, *finals), cotangents, strict=True)
        pairs = [(result, d) for result, d in given if d is not None and result.requires_grad]
        if not pairs:  # nothing that was asked for has an effect
            return [None] * len(needed)
        sources = [t for t, wanted in zip(call.tensors(), needed, strict=True) if wanted and t is not None]
        values, d_values = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(values, sources, d_values, create_graph=again, allow_unused=True))
        return [next(found) if wanted else None for wanted in needed]


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    """What enters matrix products, of another type; vectors are used elementwise, and stay."""
    return Weights(*[w if w is None else w.to(dtype) for w in weights[:-1]], ch=weights.ch)


@contextmanager
def _recording() -> Any:
    """Let autograd record, also inside an operator's implementation, which the dispatcher calls below autograd."""
    keys, excluded = torch._C.DispatchKey, torch._C._dispatch_tls_local_exclude_set()
    for key in (keys.AutogradFunctionality, keys.AutogradOther, keys.ADInplaceOrView):
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), torch.enable_grad():
        yield


REFERENCE = Composed("the loop over time in plain PyTorch", reference.unsupported, reference.run)
ENGINES: dict[str, Engine] = {
    "reference": REFERENCE,
    "native": Composed("torch's own kernel for the cell", native.unsupported, native.run),
    "cpu": cpu.ENGINE,
}

# For each kind of device, the fastest first; the reference engine runs what no other can.
PREFERENCES = {"cpu": ("cpu", "reference")}
ELSEWHERE = ("native", "reference")


class Choice(NamedTuple):
    """An engine and the reason it was taken."""

    engine: str
    why: str


_TABLES = {  # for each kind of device, what to ask an engine, and the choice where nothing speaks against the first
    device: tuple([(ENGINES[name].unsupported, Choice(name, ENGINES[name].why)) for name in engines])
    for device, engines in (*PREFERENCES.items(), ("", ELSEWHERE))
}


def choose(call: Call, forced: str = "auto") -> Choice:
    """The engine for a call: the forced one, else the first of its device that supports it.

    RuntimeError if an engine was forced that cannot run the call: it never falls back in silence.
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
    for unsupported, choice in _TABLES[device if device in _TABLES else ""]:
        problem = unsupported(call)
        if problem is None:
            return Choice(choice.engine, why) if why else choice
        why = why or problem
    raise RuntimeError(why)
