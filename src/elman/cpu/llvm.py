"""LLVM, through llvmlite: from the text of a module to functions that can be called. Nothing else touches it.

Compiled code lives as long as the process.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from llvmlite import binding, ir

# Where a processor has vectors, their bytes, widest first.
_VECTOR_BYTES = (("avx512f", 64), ("avx", 32))
_engines: list[binding.ExecutionEngine] = []  # the code of a module is freed with its engine


class Target(NamedTuple):
    """A processor as the kernels see it."""

    cpu: str
    vector_bytes: int
    registers: int  # vector registers
    caches: tuple[int, int]  # bytes of weights that the first and the second level hold, beside everything else

    def lanes(self, dtype_bytes: int) -> int:
        return self.vector_bytes // dtype_bytes


@cache
def target() -> Target:
    """The processor this process runs on."""
    features = binding.get_host_cpu_features()
    wide = next((size for feature, size in _VECTOR_BYTES if features.get(feature)), 16)
    first, second = _cache_bytes(1), _cache_bytes(2)
    return Target(binding.get_host_cpu_name(), wide, 32 if wide == 64 else 16, (first * 5 // 6, second * 3 // 4))


def _cache_bytes(level: int) -> int:
    """The size of a core's cache of data, as Linux tells it; elsewhere that of an ordinary one."""
    for of in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, number, size = [(of / name).read_text().strip() for name in ("type", "level", "size")]
            if kind != "Instruction" and int(number) == level:
                return int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return {1: 32 << 10, 2: 1 << 20}[level]


@cache
def _machine() -> binding.TargetMachine:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3, jit=True
    )


def new_module(name: str) -> ir.Module:
    module = ir.Module(name)
    module.triple = binding.get_default_triple()
    return module


def optimised(module: ir.Module) -> binding.ModuleRef:
    """The module after LLVM's own passes, for this processor. RuntimeError if it is malformed."""
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False  # the kernels are written in vectors
    options.slp_vectorization = False
    options.loop_unrolling = False
    passes = binding.create_pass_builder(_machine(), options)
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def assembly(module: ir.Module) -> str:
    """The machine code of a module, as text."""
    return _machine().emit_assembly(optimised(module))


def addresses(module: ir.Module, names: list[str]) -> list[int]:
    """Compile a module; the addresses of these functions, valid until the process ends."""
    engine = binding.create_mcjit_compiler(optimised(module), _machine())
    engine.finalize_object()
    _engines.append(engine)
    return [engine.get_function_address(name) for name in names]
