"""`elman doctor`: what this machine has, and which engine runs which cell on it."""

from __future__ import annotations

import stat

import typer

EXAMPLE = "Example:  elman doctor"


def doctor() -> None:
    """Say what elman finds here: processor, threads, compiled code, and the engine of every cell on every device."""
    import torch

    import elman
    from elman import cells
    from elman.cpu import system
    from elman.cpu.codegen import code_cache, llvm
    from elman.cpu.codegen.formats import FLOAT32, FLOAT64
    from elman.cpu.scripts import threads
    from elman.engines import choose
    from elman.errors import InputError
    from elman.recurrent import Recurrent

    try:
        target = llvm.target()
    except RuntimeError as error:  # ELMAN_CPU names an unknown processor
        raise InputError(str(error)) from error

    def say(name: str, what: str) -> None:
        typer.echo(f"{name:<25}{what}")

    llvmlite, *llvm_version = llvm.versions()
    say(
        "versions",
        f"elman {elman.__version__}, torch {torch.__version__}, llvmlite {llvmlite}, LLVM {'.'.join(map(str, llvm_version))}",
    )
    first, second = (system.cache_bytes(level) >> 10 for level in (1, 2))
    say("processor", f"{target.cpu}, {target.triple}; caches of {first:,} and {second:,} KiB for each core")
    if not llvm.runs_here():
        say("", "kernels for it cannot run on this processor: ELMAN_CPU asks for another one")
    say(
        "vectors",
        f"{target.vector_bytes} bytes: {FLOAT32.lanes} float32 or {FLOAT64.lanes} float64; {target.registers} registers, "
        f"{'' if target.fused else 'no '}fused multiply-add",
    )
    if system.parallel() is None:
        say("threads", "1: no OpenMP was found in torch")
    else:
        say("threads", f"{threads.available()}, of torch's OpenMP; torch.set_num_threads or OMP_NUM_THREADS changes it")
    say("executable memory", system.refuses_code() or "allowed")
    path, problem = code_cache.folder()
    if path is None:
        say("compiled code", f"not kept: {problem}")
    else:
        found = [file.lstat() for file in path.glob("*.code")]
        sizes = [status.st_size for status in found if stat.S_ISREG(status.st_mode)]
        say("compiled code", f"{len(sizes)} files of {sum(sizes):,} bytes together in {path}")

    devices = ["cpu", *(name for name in ("cuda", "mps") if getattr(torch, name).is_available())]
    for device in devices:
        typer.echo(f"\nengines on {device}, float32")
        for cell in cells.BUILT_IN.values():
            layer = Recurrent(cell, 2, 3, proj_size=1 if cell.projected else 0, device=device)
            choice = choose(layer.call(0, torch.empty(1, 1, 2, device=device), ()))
            say(f"  {cell.name}", f"{choice.engine}: {choice.why}")
