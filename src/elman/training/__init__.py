"""Training: truncated backpropagation through time, the training loop, and the directories of runs.

    rows = elman.training.fit(task, "runs/mine")

trains a task (`elman.training.task.Task`). Names are imported when they are first used, so that the command line
imports torch only where it needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.training.fitting import begin, fit

__all__ = ["begin", "fit"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("elman.training.fitting"), name)
