"""LLVM, through llvmlite: from the text of a module to functions that can be called.

Only this file compiles and loads code. Loaded code stays in memory until the process ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import llvmlite
from llvmlite import binding, ir

from elman.cpu import system

_loaded: list[binding.ResourceTracker] = []  # LLVM frees a module's code when its tracker is deleted
_numbers = count()  # each loaded library needs a name of its own


class Target(NamedTuple):
    """A processor: the name and features that LLVM is given, and what the choice of kernels depends on."""

    triple: str
    cpu: str  # as LLVM names it
    features: str
    vector_bytes: int
    registers: int  # vector registers
    fused: bool  # whether one instruction computes a b + c and rounds once
    caches: tuple[int, int]  # bytes of weights that the first- and second-level caches hold besides other data


# The values of ELMAN_CPU: the beginning of the triple, bytes of a vector, vector registers, fused.
# Code for one of the psABI's levels of x86-64 also runs on processors of any higher level.
NAMED = {
    "x86-64": ("x86_64", 16, 16, False),
    "x86-64-v3": ("x86_64", 32, 16, True),
    "x86-64-v4": ("x86_64", 64, 32, True),
    "aarch64": ("aarch64", 16, 32, True),
}
_NEEDS = {"x86-64-v3": ("avx2", "fma"), "x86-64-v4": ("avx512f", "avx512bw", "avx512dq", "avx512vl")}


@cache
def target() -> Target:
    """Returns the processor that code is made for: this one, or the lesser one that ELMAN_CPU names.

    Raises RuntimeError if this environment variable names an unknown processor.
    """
    asked, features, host = os.environ.get("ELMAN_CPU"), binding.get_host_cpu_features(), binding.get_default_triple()
    caches = system.cache_bytes(1) * 5 // 6, system.cache_bytes(2) * 3 // 4
    if asked:
        if asked not in NAMED:
            raise RuntimeError(
                f"ELMAN_CPU is {asked!r} but must be one of {', '.join(NAMED)}; unset it to use this processor as it is"
            )
        kind, size, registers, fused = NAMED[asked]
        triple = host if host.startswith(kind) else f"{kind}-unknown-linux-gnu"
        return Target(triple, "generic" if asked == kind else asked, "", size, registers, fused, caches)
    best = host.partition("-")[0].replace("arm64", "aarch64")
    if best == "x86_64":
        can = (name for name in ("x86-64-v4", "x86-64-v3") if all(features.get(each) for each in _NEEDS[name]))
        best = next(can, "x86-64")
    _, size, registers, fused = NAMED.get(best, ("", 16, 16, False))
    return Target(host, binding.get_host_cpu_name(), features.flatten(), size, registers, fused, caches)


def runs_here() -> bool:
    """Returns whether this processor can run code for the target. If not, the code can only be looked at."""
    features, own = binding.get_host_cpu_features(), target().triple == binding.get_default_triple()
    return own and all(features.get(each) for each in _NEEDS.get(target().cpu, ()))


@cache
def _machine() -> binding.TargetMachine:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    wanted = target()
    return binding.Target.from_triple(wanted.triple).create_target_machine(
        cpu=wanted.cpu, features=wanted.features, opt=3, jit=True
    )


def new_module(name: str) -> ir.Module:
    module = ir.Module(name)
    module.triple = target().triple
    return module


def optimised(module: ir.Module) -> binding.ModuleRef:
    """Returns the module after LLVM's optimisation passes for the target. Raises RuntimeError if it is malformed."""
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False  # not needed: the kernels are written with vectors
    options.slp_vectorization = False
    options.loop_unrolling = False
    passes = binding.create_pass_builder(_machine(), options)
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def assembly(module: ir.Module) -> str:
    """Returns the machine code of a module as assembly text."""
    return _machine().emit_assembly(optimised(module))


def machine_code(module: ir.Module) -> bytes:
    """Compiles a module and returns the object file. Raises RuntimeError if this processor could not run it."""
    if not runs_here():
        raise RuntimeError(
            f"kernels for ELMAN_CPU={os.environ['ELMAN_CPU']} cannot run on this processor, "
            f"{binding.get_host_cpu_name()}; unset it to use this one as it is"
        )
    return _machine().emit_object(optimised(module))


def load(code: bytes, names: Sequence[str]) -> list[int]:
    """Loads an object file into memory and returns the addresses of the functions with these names."""
    library = binding.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name in names:
        library.export_symbol(name)
    loaded = library.link(_loader(), f"{next(_numbers)}")
    _loaded.append(loaded)
    return [loaded[name] for name in names]


@cache
def _loader() -> binding.LLJIT:
    _machine()
    return binding.create_lljit_compiler(binding.Target.from_triple(target().triple).create_target_machine())


def versions() -> tuple[Any, ...]:
    return llvmlite.__version__, *binding.llvm_version_info
