"""Writes docs/onnx-and-torch.md: what `torch.onnx.export` makes of torch.nn's recurrent layers and of elman's.

Each entry is found by an export, and by ONNX Runtime at other sizes than those of the example. With --check, says whether
the page is up to date.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from generated import write_or_check
from torch import Tensor, nn, sigmoid, tanh
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman
from elman import Cell, State
from elman.onnx.exporting import _quiet
from elman.onnx.proof import flat, session

PAGE = Path(__file__).parent / "onnx-and-torch.md"
INPUT, HIDDEN = 5, 7
EXAMPLE = 20, 3  # T and B
OTHERS = {"T = 7": (7, 3), "T = 31": (31, 3), "B = 5": (20, 5)}
LOOPS = "LSTM", "GRU", "RNN", "Scan", "Loop"

TEXT = """# torch.nn and elman as ONNX

What plain `torch.onnx.export(model, args, dynamo=True)` makes of torch.nn's recurrent layers, and of elman's in the same code.
Written by `python docs/make_onnx_table.py`, with {versions}.

- A file of torch.nn's layers may run only at the length of the example, although its input says that T is free; with
  `batch_first=True`, LSTM and GRU are right at all sizes tried.
- A loop over steps is unrolled, with torch.nn's cells and with elman's, and a longer sequence then gets wrong results without an
  error.
- elman's layers were right at every size, also where ONNX has no node for the cell; but a sequence that is packed in the model is
  refused, so give `lengths=` instead.

Each model was exported with T = 20 and B = 3, and run in ONNX Runtime at four sizes: this one, T = 7, T = 31 and B = 5. *Right* is
what differs from PyTorch by less than 1e-4, or 2e-3 in float16. *Stops* is an error of ONNX Runtime. Nodes within a Scan are
counted. T and B were `torch.export.Dim.AUTO`: with `Dim.DYNAMIC`, the exporter refuses some of torch.nn's layers that it accepts
here.
"""


class Whole(nn.Module):
    """A layer that is called with x."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class WithState(Whole):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        return self.layer(x, (h, c))


class WithLengths(Whole):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.layer(x, lengths=lengths)


class Packed(Whole):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        y, states = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(y)[0], states


class Steps(Whole):
    """A loop in Python over steps. The layer takes x_t and the state, and returns the state, or a tuple that begins with h."""

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, list[Tensor]()
        for x_t in x:
            state = self.layer(x_t, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs)


class PeepholeStep(nn.Module):
    """One step of an LSTM with peepholes, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(INPUT, 4 * HIDDEN), nn.Linear(HIDDEN, 4 * HIDDEN)
        self.p = nn.Parameter(torch.randn(3, HIDDEN))

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        h, c = state or (x.new_zeros(x.shape[0], HIDDEN), x.new_zeros(x.shape[0], HIDDEN))
        i, f, g, o = (self.x(x) + self.h(h)).chunk(4, 1)
        after = sigmoid(f + self.p[0] * c) * c + sigmoid(i + self.p[1] * c) * tanh(g)
        return sigmoid(o + self.p[2] * after) * tanh(after), after


class MinimalStep(nn.Module):
    """One step of the minimal gated unit, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.f, self.n = nn.Linear(INPUT, 2 * HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor, h: Any) -> Tensor:
        h = x.new_zeros(x.shape[0], HIDDEN) if h is None else h
        x_f, x_n = self.x(x).chunk(2, 1)
        f = sigmoid(x_f + self.f(h))
        return (1 - f) * h + f * tanh(x_n + self.n(f * h))


def minimal(x: Any, R: Any, s: Any) -> State:
    f = sigmoid(x.f + R.f @ s.h)
    return State(h=(1 - f) * s.h + f * tanh(x.n + R.n @ (f * s.h)))


OWN = Cell(minimal, gates=("f", "n"))


class Row(NamedTuple):
    name: str
    torchs: Callable[[], nn.Module]
    elmans: Callable[[], nn.Module]
    given: str = ""  # besides x: "states" or "lengths"
    batch_first: bool = False
    dtype: torch.dtype = torch.float32


def same(name: str, make: Callable[[Any], nn.Module], **others: Any) -> Row:
    """A row of one code, with torch.nn and with elman for the library."""
    return Row(name, lambda: make(nn), lambda: make(elman), **others)


ROWS = [
    same("`LSTM(5, 7)`", lambda of: Whole(of.LSTM(INPUT, HIDDEN))),
    same("`LSTM(5, 7, batch_first=True)`", lambda of: Whole(of.LSTM(INPUT, HIDDEN, batch_first=True)), batch_first=True),
    same("`LSTM(5, 7, num_layers=2)`", lambda of: Whole(of.LSTM(INPUT, HIDDEN, 2))),
    same("`LSTM(5, 7, bidirectional=True)`", lambda of: Whole(of.LSTM(INPUT, HIDDEN, bidirectional=True))),
    same("`GRU(5, 7)`", lambda of: Whole(of.GRU(INPUT, HIDDEN))),
    same("`GRU(5, 7, batch_first=True)`", lambda of: Whole(of.GRU(INPUT, HIDDEN, batch_first=True)), batch_first=True),
    same("`RNN(5, 7)`", lambda of: Whole(of.RNN(INPUT, HIDDEN))),
    same("`LSTM(5, 7)`, initial states given", lambda of: WithState(of.LSTM(INPUT, HIDDEN)), given="states"),
    same("`LSTM(5, 7, proj_size=3)`", lambda of: Whole(of.LSTM(INPUT, HIDDEN, proj_size=3))),
    same("`LSTM(5, 7)` in float64", lambda of: Whole(of.LSTM(INPUT, HIDDEN)), dtype=torch.float64),
    same("`LSTM(5, 7)` in float16", lambda of: Whole(of.LSTM(INPUT, HIDDEN)), dtype=torch.float16),
    same("`LSTM(5, 7, batch_first=True)` in float16", lambda of: Whole(of.LSTM(INPUT, HIDDEN, batch_first=True)), batch_first=True, dtype=torch.float16),
    same("`LSTM(5, 7)`, packed in the model", lambda of: Packed(of.LSTM(INPUT, HIDDEN)), given="lengths"),
    same("`LSTM(5, 7)` with `lengths=`", lambda of: WithLengths(of.LSTM(INPUT, HIDDEN)), given="lengths"),
    same("`LSTMCell(5, 7)` in a loop over steps", lambda of: Steps(of.LSTMCell(INPUT, HIDDEN))),
    same("`GRUCell(5, 7)` in a loop over steps", lambda of: Steps(of.GRUCell(INPUT, HIDDEN))),
    Row(
        "LSTM with peepholes (torch: written as a loop; elman: `PeepholeLSTM`)",
        lambda: Steps(PeepholeStep()),
        lambda: Whole(elman.PeepholeLSTM(INPUT, HIDDEN)),
    ),
    Row(
        "minimal gated unit (torch: written as a loop; elman: `Recurrent`)",
        lambda: Steps(MinimalStep()),
        lambda: Whole(elman.Recurrent(OWN, INPUT, HIDDEN)),
    ),
]  # fmt: skip


def arguments(row: Row, T: int, B: int) -> tuple[Tensor, ...]:
    x = torch.randn(*((B, T) if row.batch_first else (T, B)), INPUT, dtype=row.dtype)
    states = torch.randn(2, 1, B, HIDDEN, dtype=row.dtype)
    lengths = torch.arange(T, T - B, -1)  # of which no two are alike
    return {"": (x,), "states": (x, *states), "lengths": (x, lengths)}[row.given]


def shapes(row: Row) -> tuple[dict[int, Any], ...]:
    """T and B as free as the exporter can leave them."""
    free = torch.export.Dim.AUTO
    x, state, lengths = {0: free, 1: free}, {1: free}, {0: free}
    return {"": (x,), "states": (x, state, state), "lengths": (x, lengths)}[row.given]


def found(row: Row, make: Callable[[], nn.Module]) -> str:
    """What becomes of one of the modules of a row, in a few words."""
    torch.manual_seed(0)
    module = make().eval().to(row.dtype)
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                module, arguments(row, *EXAMPLE), dynamo=True, verbose=False, dynamic_shapes=shapes(row)
            )
    except Exception as error:
        return f"refused: {reason(error)}"
    nodes = list(program.model.graph.all_nodes())
    loops = [node.op_type for node in nodes if node.op_type in LOOPS]
    unrolled = len(loops) in (0, EXAMPLE[0])
    size = f"unrolled: {len(nodes)} nodes" if unrolled else f"{len(nodes)} nodes, of which {len(loops)} {loops[0]}"
    return f"{verdict(program.model_proto, module, row)}; {size}"


def verdict(model: Any, module: nn.Module, row: Row) -> str:
    """At which sizes ONNX Runtime gives what the module gives."""
    outcomes: dict[str, list[str]] = {}
    said = ""
    opened = session(model.SerializeToString())
    for name, (T, B) in {"the example's size": EXAMPLE, **OTHERS}.items():
        given = arguments(row, T, B)
        try:
            results = opened.run(None, {i.name: v.numpy() for i, v in zip(opened.get_inputs(), given, strict=True)})
        except Exception as error:
            outcome, said = "stops", said or reason(error)
        else:
            with torch.no_grad():
                pairs = zip(map(torch.from_numpy, results), flat(module(*given)), strict=True)
                outcome = "right" if all(alike(mine, torchs) for mine, torchs in pairs) else "wrong"
        outcomes.setdefault(outcome, []).append(name)
    if len(outcomes) == 1:
        return f"{next(iter(outcomes))} at every size" + (f" ({said})" if said else "")
    return ", ".join(f"{outcome} at {' and '.join(names)}" for outcome, names in outcomes.items())


def alike(mine: Tensor, torchs: Tensor) -> bool:
    tolerance = 2e-3 if torchs.dtype == torch.float16 else 1e-4
    return mine.shape == torchs.shape and torch.allclose(mine, torchs, rtol=tolerance, atol=tolerance)


def reason(error: BaseException) -> str:
    """The first words of the error that began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = str(error).strip().splitlines()[0].rpartition("Status Message: ")[2]
    return shorten(line, 90, placeholder=" ...").replace("|", "\\|")


def versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxruntime", "onnxscript"))


def line(row: Row, torchs: str, elmans: str) -> str:
    return f"| {row.name} | {torchs} | {elmans} |"


def page() -> str:
    return "\n".join(
        [
            TEXT.format(versions=versions()),
            "| | torch.nn | elman |",
            "|---|---|---|",
            *(line(row, found(row, row.torchs), found(row, row.elmans)) for row in ROWS),
            "",
        ]
    )


if __name__ == "__main__":
    write_or_check(PAGE, page())
