"""Compiles kernels for GPUs that need not be there: python tests/offline.py CELL... prints what it made, or fails.

Triton must not interpret, so this is a process of its own.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from elman import cells
from elman.gpu.kernels import kernels
from elman.gpu.loop import Form
from elman.gpu.resident import MOST_SPILLED, Tile, padded, way_of
from elman.gpu.resident_kernel import resident_kernel
from elman.gpu.source import module_from

WORDS = {"table": "*i64", "counters": "*i32", "k": "i32", "B": "i32"}
SHARED = {80: 163 << 10, 90: 227 << 10}  # bytes of shared memory that a program may have
# Tiles that the rule takes for sizes of bench/gpu.py.
RESIDENT = (
    (768, Tile(8, 8, 16), 90),
    (512, Tile(16, 8, 16), 80),
    (32, Tile(32, 4, 16), 90),
    (256, Tile(8, 8, 16, "tf32x3"), 90),
    (768, Tile(8, 8, 16, "tf32"), 90),
)
TYPES = ((tl.bfloat16, tl.float32), (tl.float32, tl.float32), (tl.float64, tl.float64))


def compiled(kernel: Any, capability: int, warps: int = 4, **constants: Any) -> Any:
    names = [parameter.name for parameter in kernel.params]
    signature = {name: WORDS.get(name, "constexpr") for name in names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name][0] == "*"},
    )
    return triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"enable_fp_fusion": True, "num_warps": warps, "num_stages": 1},
    )


def spilled(found: Any, capability: int) -> int:
    """Returns how many bytes each thread of a kernel puts aside, by the assembler's own account."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(found.asm["ptx"])
        target = re.search(r"\.target (\w+)", found.asm["ptx"])
        assert target is not None
        command = [
            get_ptxas(capability).path,
            "-v",
            f"--gpu-name={target[1]}",
            str(path),
            "-o",
            str(path.with_suffix(".cubin")),
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(map(int, re.findall(r"(\d+) bytes spill stores", said)))


def resident(name: str, which: str, units: int, tile: Tile, capability: int) -> None:
    cell = cells.BUILT_IN[name]
    dtype = torch.bfloat16 if tile.precision == "ieee" else torch.float32
    form = Form(cell, which, False, False, (False,), 16, units, 0, dtype, True, torch.device("cuda:0"), 0)
    with mock.patch("elman.gpu.resident.shared_memory", return_value=SHARED[capability]):
        way = way_of(form, tile)
    made = resident_kernel(cell, which, False, False, way)
    kernel = getattr(module_from(made.source, f"{name} {which} resident"), which)
    of: dict[str, Any] = {"H": units, "HP": padded(units, tile), "P": 0, "D": 1, "REVERSE": 0}
    of["LOW"] = tl.bfloat16 if tile.precision == "ieee" else tl.float32
    of |= {"WIDE": tl.float32, "BB": tile.rows, "BU": tile.units, "S": tile.warps, "PRECISION": tile.precision}
    of["ALONE"] = tile.units >= units
    found = compiled(kernel, capability, tile.warps, **of)
    assert found.metadata.shared <= SHARED[capability], found.metadata.shared
    assert spilled(found, capability) <= MOST_SPILLED, spilled(found, capability)
    code, loop = found.asm["ptx"], found.asm["ttgir"].split("scf.for", 1)[1]
    meetings = 0 if of["ALONE"] else len(made.phases)
    assert len(re.findall(r"atom\S*\.release|red\S*\.release|red\.async|ld\.acquire", code)) == 2 * meetings, which
    shapes = {f"{tile.warps}x{size // tile.warps}x{tile.units * count}x" for _, size in way.cut for count in (1, 2, 4)}
    read = [line for line in loop.splitlines() if "tt.load" in line and any(f"<{shape}" in line for shape in shapes)]
    assert not read, "weights are read again in every step"
    print(name, which, units, capability, hashlib.sha256(made.source.encode()).hexdigest())


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
            for units, tile, capability in RESIDENT:
                if not cells.BUILT_IN[name].projected:
                    resident(name, which, units, tile, capability)


if __name__ == "__main__":
    main(*sys.argv[1:])
