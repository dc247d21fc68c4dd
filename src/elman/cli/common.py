"""Code that several commands use."""

from __future__ import annotations

from elman.errors import InputError

PER = {"characters": "character", "bytes": "byte", "bpe": "token"}


def device(name: str) -> str:
    """Returns the device's name; for "auto", cuda where there is one, else cpu.

    From then on torch uses one thread on the CPU: see docs/decisions/0005. Raises InputError for a device that
    cannot be used.
    """
    import torch

    torch.set_num_threads(1)

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:120]
        raise InputError(f"--device {name} cannot be used: {reason}; choose auto or cpu") from error
    return name
