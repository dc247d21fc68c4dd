"""The proof of an ONNX file: ONNX Runtime computes what the model does, but for a few roundings as accurately as PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime
import torch
from torch import Tensor, nn

from elman.errors import InputError
from elman.recurrence import use_engine
from elman.torch_private import tree_leaves, tree_map

# rms(file's - exact) <= TIMES * rms(PyTorch's - exact) + ROUNDINGS * eps * max|exact|, with the eps of the coarsest type in
# the module. ONNX Runtime rounds in other places than PyTorch, whose error is small by chance where there are few numbers.
# Half a rounding was the most that was measured. If exact values are in the output's own type, they are rounded themselves.
TIMES, ROUNDINGS, OWN_ROUNDINGS = 2.0, 8, 32
CHOICES = 1e-3  # the share of whole numbers that may be others, such as the likeliest of two tags that are nearly alike


class Case(NamedTuple):
    """Inputs to compare on."""

    name: str
    arguments: tuple[Any, ...]  # of the module
    feed: dict[str, Tensor]  # of the file
    named: Mapping[str, Any] = {}  # arguments of the module that are given by name


class Share(float):
    """The share of whole numbers, such as tags, that are others than the module's."""


class Proof(NamedTuple):
    """A file that was written, and how far ONNX Runtime's results are from exact ones."""

    path: Path
    errors: Mapping[
        str, float
    ]  # of each output: the root mean square of errors, as a share of that of the values; or a `Share`
    beside: Path | None = None  # the file of the weights, if one file is too small for the model


def session(model: bytes | Path) -> Any:
    """Opens a model in ONNX Runtime, on one thread, without messages. A file may have weights in another one beside it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    given = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def prove(
    model: bytes | Path, module: nn.Module, cases: Iterable[Case], outputs: Sequence[str], path: Path, *, exact: bool
) -> dict[str, float]:
    """Returns the error of each output, as a share of its values.

    Exact values are those of the module in float64 with the reference engine; or in its own types, if it does not run in
    float64. Raises InputError, which names the output and the errors, if a shape is wrong, or a number is not finite where the
    module's is; if `exact`, also unless the file is as accurate as PyTorch in the module's own type, but for a few roundings.
    """
    try:
        opened = session(model)
    except Exception as error:  # of ONNX Runtime's own kinds: it lacks some operators in float64, for example
        raise InputError(
            f"{path} was not written, because ONNX Runtime cannot run it: {first_line(error)}; convert the model to float32, or change its cell"
        ) from error
    double, sums = deepcopy(module).double(), {name: _Sums() for name in outputs}
    for case in cases:
        found = opened.run(list(outputs), {name: value.detach().numpy() for name, value in case.feed.items()})
        with torch.no_grad(), use_engine("reference"):
            plain = flat(module(*case.arguments, **case.named))
            true = _exact(double, case) or plain
        if len(plain) != len(outputs):
            raise TypeError(
                f"the model returns {len(plain)} tensors, but its file has {len(outputs)} outputs; return tensors alone"
            )
        eps = _eps([*module.parameters(), *module.buffers(), *flat((case.arguments, case.named)), *plain])
        for name, mine, torchs, value in zip(outputs, found, plain, true, strict=True):
            if mine.shape != tuple(value.shape):
                raise InputError(
                    f"{path} was not written: its {name} is {mine.shape} and not {tuple(value.shape)} for {case.name}"
                )
            sums[name].add(torch.from_numpy(mine), torchs, value, eps)
    for name, of in sums.items():
        allowed = of.allowed() if exact else math.inf
        if not of.mine**0.5 <= allowed or not math.isfinite(of.mine):
            raise InputError(
                f"{path} was not written: the error of {name} in ONNX Runtime is {of.mine**0.5:.2g}, but {allowed:.2g} is allowed; "
                "please report this"
            )
    return {name: of.error() for name, of in sums.items()}


@dataclass
class _Sums:
    """Sums of squares of one output, over all cases so far."""

    mine: float = 0.0  # of the file's errors
    torchs: float = 0.0  # of PyTorch's errors
    exact: float = 0.0  # of the values
    count: int = 0
    roundings: float = 0.0  # what they may do to one number
    choices: bool = False  # whether the output has whole numbers

    def add(self, mine: Tensor, torchs: Tensor, exact: Tensor, eps: float) -> None:
        times = OWN_ROUNDINGS if exact.dtype == torchs.dtype else ROUNDINGS
        if not exact.is_floating_point():
            self.whole(mine, torchs, exact)
            return
        mine, torchs, exact = mine.double(), torchs.double(), exact.double()
        finite = mine.isfinite() & torchs.isfinite() & exact.isfinite()
        if not (finite | _same(mine, exact) | _same(mine, torchs)).all():
            self.mine = math.inf
        mine, torchs, exact = mine[finite], torchs[finite], exact[finite]
        self.mine += float((mine - exact).square().sum())
        self.torchs += float((torchs - exact).square().sum())
        self.exact += float(exact.square().sum())
        self.count += exact.numel()
        if exact.numel():
            self.roundings = max(self.roundings, times * eps * float(exact.abs().max()))

    def whole(self, mine: Tensor, torchs: Tensor, exact: Tensor) -> None:
        """Whole numbers are choices: one of two that are nearly alike may fall otherwise."""
        self.mine += float(((mine != exact) & (mine != torchs)).sum())
        self.exact += exact.numel()
        self.count += exact.numel()
        self.roundings, self.choices = CHOICES**0.5, True

    def allowed(self) -> float:
        return TIMES * self.torchs**0.5 + self.roundings * self.count**0.5

    def error(self) -> float:
        """Returns what stands in a `Proof`."""
        share = self.mine / self.exact if self.exact else self.mine
        return Share(share) if self.choices else share**0.5


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def _exact(double: nn.Module, case: Case) -> list[Tensor] | None:
    """Returns the results in float64; None if the module does not run in it, as with torch.zeros(...) of float32 inside."""
    try:
        given, named = tree_map(_double, (case.arguments, dict(case.named)))
        return flat(double(*given, **named))
    except Exception:  # of any kind, since the module is the user's
        return None


def _double(argument: Any) -> Any:
    return argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument


def _eps(tensors: Iterable[Tensor]) -> float:
    """Returns the largest rounding of 1 in the types of these tensors."""
    return max((torch.finfo(each.dtype).eps for each in tensors if each.is_floating_point()), default=0.0)


def flat(results: Any) -> list[Tensor]:
    """Returns the tensors in nested tuples, lists and dictionaries, in their order."""
    return [each for each in tree_leaves(results) if isinstance(each, Tensor)]


def first_line(error: Exception) -> str:
    """Returns the beginning of what a library says of an error."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
