"""The engine `cpu` under other settings than its own, such as a team of threads for work that is too small for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from elman.cpu.layer import backward, form, forward, inference, kernel_tasks
from elman.cpu.scripts import threads


@contextmanager
def setting(module: Any, **values: int) -> Iterator[None]:
    """Other values of what is read when a script is written; scripts are forgotten before and after."""
    before = {name: getattr(module, name) for name in values}

    def take(settings: dict[str, int]) -> None:
        for name, value in settings.items():
            setattr(module, name, value)
        for script in (inference.infer_script, forward.forward_script, backward.backward_script):
            cast(Any, script).cache_clear()
        form.templates.cache_clear()

    take(values)
    try:
        yield
    finally:
        take(before)


@contextmanager
def shared_units() -> Iterator[None]:
    """Threads share the units of a few rows, and meet after every phase, however little there is to do."""
    with setting(kernel_tasks, MEETING=0), setting(threads, SHARED_FROM=0), setting(inference, SHARE_BYTES=4000):
        yield


@contextmanager
def two_threads(small: int = 0) -> Iterator[None]:
    """Two threads, and worth waking for anything larger than `small` multiplications."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with setting(threads, SHARED_FROM=small):
            yield
    finally:
        torch.set_num_threads(before)
