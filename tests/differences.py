"""What differs from torch.nn, each with the reason and with a piece of code that shows it on either library.

`docs/compatibility.md` is written from this list by `docs/make_compatibility.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn


class Difference(NamedTuple):
    """What is done, what becomes of it in torch.nn and in elman, and why."""

    what: str
    torchs: str
    elmans: str
    why: str
    show: Callable[[Any], object]  # given the library, returns or raises what the two columns say


def outcome(difference: Difference, library: ModuleType) -> str:
    """What becomes of it: the type of the error that is raised, or what is returned, in words."""
    torch._dynamo.reset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = difference.show(library)
    except Exception as error:
        return type(error).__name__
    return found if isinstance(found, str) else "works"


def x(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (5, 2, 3))


def _per_sample(library: Any) -> None:
    of = library.GRU(3, 4)
    weights = {name: p.detach() for name, p in of.named_parameters()}

    def loss(weights: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(of, weights, (x.unsqueeze(1),))[0].sum()

    torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(weights, x())


def _jvp(library: Any) -> None:
    of = library.LSTM(3, 4)
    torch.func.jvp(lambda x: of(x)[0], (x(),), (x(),))


def _compiled(library: Any) -> None:
    torch.compile(library.LSTM(3, 4), fullgraph=True, dynamic=True, backend="eager")(x())


def _exported(library: Any) -> None:
    torch.export.export(library.LSTM(3, 4), (x(),), dynamic_shapes=({0: torch.export.Dim("T", min=2)},))


def _traced(library: Any) -> None:
    traced: Any = torch.jit.trace(library.LSTM(3, 4), (x(),), check_trace=False)
    traced(x(7, 2, 3))


def _traced_symbolically(library: Any) -> None:
    torch.fx.symbolic_trace(nn.Sequential(library.LSTM(3, 4)))


def _changed_in_place(library: Any) -> None:
    torch.relu_(library.GRU(3, 4)(x())[0]).sum().backward()


def _quantized(library: Any) -> str:
    of = torch.ao.quantization.quantize_dynamic(nn.Sequential(library.LSTM(3, 4)), {nn.LSTM}, dtype=torch.qint8)
    return "left unchanged" if isinstance(of[0], library.LSTM) else "replaced"


def _sorted_in_the_compiler(library: Any) -> None:
    packed = nn.utils.rnn.pack_sequence([x(5, 3), x(2, 3)])
    torch.compile(library.LSTM(3, 4), fullgraph=True, dynamic=True, backend="eager")(packed)


def _twice_through_the_compiler(library: Any) -> None:
    of = torch.compile(library.LSTM(3, 4), fullgraph=True, backend="aot_eager")
    given = x().requires_grad_()
    (d_x,) = torch.autograd.grad(of(given)[0].sum(), given, create_graph=True)
    d_x.sum().backward()


BETTER = [
    Difference(
        "`layer(x, lengths=...)`",
        "TypeError",
        "works",
        "lengths in any order, including zero, without packing",
        lambda library: library.LSTM(3, 4)(x(), lengths=torch.tensor([5, 2])),
    ),
    Difference(
        "`layer(x, reset=...)`",
        "TypeError",
        "works",
        "boundaries inside sequences",
        lambda library: library.LSTM(3, 4)(x(), reset=torch.zeros(5, 2, dtype=torch.bool)),
    ),
    Difference(
        "`torch.compile(layer, fullgraph=True)`",
        "Unsupported",
        "works",
        "one operator per layer for all T and B",
        _compiled,
    ),
    Difference(
        "`torch.export` with a dynamic T",
        "UserError",
        "works",
        "the same operator; a process that loads the program imports `elman.operators` first, and builds a layer of every cell that is not built in",
        _exported,
    ),
    Difference(
        "`vmap(grad(...))` of a GRU or RNN: per-sample gradients",
        "RuntimeError",
        "works",
        "plain PyTorch runs it",
        _per_sample,
    ),
    Difference("`jvp` of an LSTM", "NotImplementedError", "works", "plain PyTorch runs it", _jvp),
    Difference(
        "`torch.nn.utils.skip_init(LSTM, 3, 4)`",
        "RuntimeError",
        "works",
        "elman's constructors have a signature",
        lambda library: nn.utils.skip_init(library.LSTM, 3, 4),
    ),
    Difference(
        "`GRU(3, 4)(x, (h,))`: the state as a tuple of one",
        "AttributeError",
        "works",
        "every cell's state may be a tuple",
        lambda library: library.GRU(3, 4)(x(), (x(1, 2, 4),)),
    ),
]

LEFT = [
    Difference(
        "`isinstance(layer, torch.nn.LSTM)`, or `torch.nn.RNNBase`",
        "True",
        "False",
        "code that checks for torch's class, for example to initialise it, must also check for elman's",
        lambda library: str(isinstance(library.LSTM(3, 4), (nn.LSTM, nn.RNNBase))),
    ),
    Difference(
        "`quantize_dynamic(model, {torch.nn.LSTM})`",
        "replaced",
        "left unchanged",
        "torch replaces only its own classes",
        _quantized,
    ),
    Difference(
        "`layer._flat_weights`",
        "works",
        "AttributeError",
        "elman keeps no list of weights besides the parameters; use `all_weights`; `flatten_parameters()` puts the weights in one piece for cuDNN",
        lambda library: library.LSTM(3, 4)._flat_weights,
    ),
    Difference(
        "`layer.check_forward_args`, `check_input`, `check_hidden_size`, `get_expected_hidden_size`, `permute_hidden`",
        "works",
        "AttributeError",
        "these are torch's internal steps before it calls its kernels",
        lambda library: [
            getattr(library.LSTM(3, 4), name)
            for name in (
                "check_forward_args",
                "check_input",
                "check_hidden_size",
                "get_expected_hidden_size",
                "permute_hidden",
            )
        ],
    ),
    Difference(
        '`RNNBase("LSTM", 3, 4)`',
        "works",
        "AttributeError",
        "the base class is `elman.Recurrent`, which takes a cell",
        lambda library: library.RNNBase("LSTM", 3, 4),
    ),
    Difference(
        "`RNNCell(3, 0)`, `RNNCell(0, 4)`: a width of zero",
        "works",
        "ValueError",
        "elman makes no kernel for it; torch's own layers also reject it",
        lambda library: (library.RNNCell(3, 0), library.RNNCell(0, 4)),
    ),
    Difference(
        "`torch.jit.script(LSTMCell(3, 4))`",
        "works",
        "NotSupportedError",
        "TorchScript cannot express the equations of an arbitrary cell, and torch has deprecated it; use `torch.export` instead",
        lambda library: torch.jit.script(library.LSTMCell(3, 4)),
    ),
    Difference(
        "`torch.jit.trace(layer, x)`, then another T",
        "works",
        "RuntimeError",
        "the trace contains the loop over time, unrolled for one T; use `torch.export` instead",
        _traced,
    ),
    Difference(
        "`torch.fx.symbolic_trace(model)`",
        "works",
        "TraceError",
        "it traces into every module that is not torch's own; declare elman's as leaves in `Tracer.is_leaf_module`",
        _traced_symbolically,
    ),
    Difference(
        "a GRU's or an RNN's output that is changed in place before backward, such as by `nn.ReLU(inplace=True)`",
        "works",
        "RuntimeError",
        "backward reads the output, as it does for an LSTM in both; leave `inplace` out",
        _changed_in_place,
    ),
    Difference(
        "an array of numpy, a list or a tuple in place of the input",
        "AttributeError",
        "TypeError",
        "the message says what was given, and what to write",
        lambda library: library.GRU(3, 4)(x().numpy()),
    ),
]

BOTH = [
    Difference(
        "second derivatives through a compiled layer",
        "Unsupported",
        "RuntimeError",
        "torch's compiler differentiates only once; without the compiler, both work",
        _twice_through_the_compiler,
    ),
    Difference(
        "a compiled layer on a `PackedSequence` that was already sorted, without a state",
        "Unsupported",
        "GuardOnDataDependentSymNode",
        "the number of sequences is a value in a tensor; pack with `enforce_sorted=False`, or pass the state",
        _sorted_in_the_compiler,
    ),
    Difference(
        "`pack_padded_sequence` inside compiled code",
        "Unsupported",
        "Unsupported",
        "it needs values of a tensor; pack outside, or pass `lengths`",
        lambda library: torch.compile(
            lambda x, lengths: library.LSTM(3, 4)(nn.utils.rnn.pack_padded_sequence(x, lengths)),
            fullgraph=True,
            backend="eager",
        )(x(), torch.tensor([5, 2])),
    ),
]
