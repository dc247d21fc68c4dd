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

# rms(file's - exact) <= TIMES * rms(PyTorch's - exact) + ROUNDINGS * eps * max|exact|, with eps of the output's type. ONNX Runtime
# rounds in other places than PyTorch, whose error is small by chance where there are few numbers. Measured: half a rounding.
TIMES, ROUNDINGS = 2.0, 8


class Case(NamedTuple):
    """Inputs to compare on."""

    name: str
    arguments: tuple[Any, ...]  # of the module
    feed: dict[str, Tensor]  # of the file


class Proof(NamedTuple):
    """A file that was written, and how far ONNX Runtime's results are from exact ones."""

    path: Path
    errors: Mapping[str, float]  # of each output: the root mean square of errors, as a share of that of the values
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

    Exact values are those of the module in float64 with the reference engine. Raises InputError, which names the output and
    the errors, if a shape is wrong or a number is not finite; if `exact`, also unless the file is as accurate as PyTorch in
    the module's own type, but for a few roundings.
    """
    try:
        opened = session(model)
    except Exception as error:  # of ONNX Runtime's own kinds: it lacks some operators in float64, for example
        raise InputError(
            f"{path} was not written, because ONNX Runtime cannot run it: {first_line(error)}; convert the model to float32, or change its cell"
        ) from error
    double = deepcopy(module).double()
    sums = {name: _Sums() for name in outputs}
    for case in cases:
        found = opened.run(list(outputs), {name: value.numpy() for name, value in case.feed.items()})
        with torch.no_grad(), use_engine("reference"):
            plain, true = flat(module(*case.arguments)), flat(double(*map(_double, case.arguments)))
        for name, mine, torchs, value in zip(outputs, found, plain, true, strict=True):
            if mine.shape != tuple(value.shape):
                raise InputError(
                    f"{path} was not written: its {name} is {mine.shape} and not {tuple(value.shape)} for {case.name}"
                )
            sums[name].add(torch.from_numpy(mine), torchs, value)
    for name, of in sums.items():
        allowed = of.allowed() if exact else math.inf
        if not of.mine**0.5 <= allowed or not math.isfinite(of.mine):
            raise InputError(
                f"{path} was not written: the error of {name} in ONNX Runtime is {of.mine**0.5:.2g}, but {allowed:.2g} is allowed; "
                "please report this"
            )
    return {name: (of.mine / of.exact) ** 0.5 if of.exact else of.mine**0.5 for name, of in sums.items()}


@dataclass
class _Sums:
    """Sums of squares of one output, over all cases so far."""

    mine: float = 0.0  # of the file's errors
    torchs: float = 0.0  # of PyTorch's errors
    exact: float = 0.0  # of the values
    count: int = 0
    step: float = 0.0  # the largest rounding: of the largest value, in the output's type

    def add(self, mine: Tensor, torchs: Tensor, exact: Tensor) -> None:
        self.mine += float((mine.double() - exact).square().sum())
        self.torchs += float((torchs.double() - exact).square().sum())
        self.exact += float(exact.square().sum())
        self.count += exact.numel()
        if exact.numel():
            self.step = max(self.step, torch.finfo(torchs.dtype).eps * float(exact.abs().max()))

    def allowed(self) -> float:
        return TIMES * self.torchs**0.5 + ROUNDINGS * self.step * self.count**0.5


def _double(argument: Any) -> Any:
    return argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument


def flat(results: Any) -> list[Tensor]:
    """Returns the tensors in nested tuples and lists, in their order."""
    if isinstance(results, Tensor):
        return [results]
    return [tensor for each in results for tensor in flat(each)]


def first_line(error: Exception) -> str:
    """Returns the beginning of what a library says of an error."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
