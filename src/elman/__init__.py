"""Recurrent neural networks on PyTorch: every cell is written as its equations.

Public names are imported when they are first used, so that `elman --help` need not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman import cells as cells
    from elman.cell import Cell as Cell
    from elman.cell import State as State
    from elman.crf import CRF as CRF
    from elman.describe import describe as describe
    from elman.errors import SlowCellWarning as SlowCellWarning
    from elman.explain.trace import trace as trace
    from elman.frozen import Frozen as Frozen
    from elman.frozen import freeze as freeze
    from elman.layers import GRU as GRU
    from elman.layers import LSTM as LSTM
    from elman.layers import RNN as RNN
    from elman.layers import CoupledLSTM as CoupledLSTM
    from elman.layers import CoupledPeepholeLSTM as CoupledPeepholeLSTM
    from elman.layers import PeepholeLSTM as PeepholeLSTM
    from elman.models import load as load
    from elman.models import resume as resume
    from elman.models import train as train
    from elman.one_step import CoupledLSTMCell as CoupledLSTMCell
    from elman.one_step import CoupledPeepholeLSTMCell as CoupledPeepholeLSTMCell
    from elman.one_step import GRUCell as GRUCell
    from elman.one_step import LSTMCell as LSTMCell
    from elman.one_step import PeepholeLSTMCell as PeepholeLSTMCell
    from elman.one_step import RecurrentCell as RecurrentCell
    from elman.one_step import RNNCell as RNNCell
    from elman.recurrence import use_engine as use_engine
    from elman.recurrent import Recurrent as Recurrent
    from elman.studies import cross_validate as cross_validate
    from elman.studies import tune as tune
    from elman.training.tbptt import detach as detach
    from elman.training.tbptt import tbptt as tbptt

__version__ = "0.1.0"

_HOME = {
    "Cell": "elman.cell",
    "State": "elman.cell",
    "CRF": "elman.crf",
    "describe": "elman.describe",
    "SlowCellWarning": "elman.errors",
    "trace": "elman.explain.trace",
    "Frozen": "elman.frozen",
    "freeze": "elman.frozen",
    "RNN": "elman.layers",
    "LSTM": "elman.layers",
    "GRU": "elman.layers",
    "PeepholeLSTM": "elman.layers",
    "CoupledLSTM": "elman.layers",
    "CoupledPeepholeLSTM": "elman.layers",
    "Recurrent": "elman.recurrent",
    "RecurrentCell": "elman.one_step",
    "RNNCell": "elman.one_step",
    "LSTMCell": "elman.one_step",
    "GRUCell": "elman.one_step",
    "PeepholeLSTMCell": "elman.one_step",
    "CoupledLSTMCell": "elman.one_step",
    "CoupledPeepholeLSTMCell": "elman.one_step",
    "train": "elman.models",
    "load": "elman.models",
    "resume": "elman.models",
    "cross_validate": "elman.studies",
    "tune": "elman.studies",
    "use_engine": "elman.recurrence",
    "tbptt": "elman.training.tbptt",
    "detach": "elman.training.tbptt",
}

__all__ = [
    "CRF",
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "CoupledLSTM",
    "CoupledLSTMCell",
    "CoupledPeepholeLSTM",
    "CoupledPeepholeLSTMCell",
    "Frozen",
    "GRUCell",
    "LSTMCell",
    "PeepholeLSTM",
    "PeepholeLSTMCell",
    "RNNCell",
    "Recurrent",
    "RecurrentCell",
    "SlowCellWarning",
    "State",
    "cells",
    "cross_validate",
    "describe",
    "detach",
    "freeze",
    "load",
    "resume",
    "tbptt",
    "trace",
    "train",
    "tune",
    "use_engine",
]


def __getattr__(name: str) -> Any:
    if name == "cells":
        return importlib.import_module("elman.cells")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'elman' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
