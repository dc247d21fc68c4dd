"""Compiles kernels for GPUs that need not be there: python tests/offline.py CELL... prints OK, or fails.

Triton must not interpret, so this is a process of its own.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from elman import cells
from elman.gpu.kernels import kernels
from elman.gpu.source import module_from

WORDS = {"table": "*i64", "k": "i32", "B": "i32"}
TYPES = ((tl.bfloat16, tl.float32), (tl.float32, tl.float32), (tl.float64, tl.float64))


def compiled(kernel: Any, capability: int, **constants: Any) -> Any:
    names = [parameter.name for parameter in kernel.params]
    signature = {name: WORDS.get(name, "constexpr") for name in names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(0,): [["tt.divisibility", 16]]},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True})


def main(*names: str) -> None:
    for name in names:
        for which in ("forward", "backward"):
            made = kernels(cells.BUILT_IN[name], which, True, True)
            module = module_from(made.source, f"{name} {which}")
            print(name, which, hashlib.sha256(made.source.encode()).hexdigest(), module.__name__)
            for capability, (low, wide) in zip((80, 90, 90), TYPES, strict=True):
                for number in range(len(made.phases)):
                    kernel = getattr(module, f"{which}_{number}")
                    of = {"H": 67, "HP": 67, "P": 33, "D": 2, "REVERSE": 2, "LOW": low, "WIDE": wide, "BLOCK": 256}
                    assert compiled(kernel, capability, **of).asm["cubin"]


if __name__ == "__main__":
    main(*sys.argv[1:])
