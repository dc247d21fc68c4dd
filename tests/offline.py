"""Compiles kernels for GPUs that need not be there: python tests/offline.py CELL... prints what it made, or fails.

A cell is a built-in one, or `normalised`, which is here.

python tests/offline.py sources CELL...    prints the same and compiles nothing
python tests/offline.py start              starts a kernel, on a driver that is made up

Triton must not interpret, so this is a process of its own.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from elman import Cell, State, cells
from elman.gpu.kernels import kernels
from elman.gpu.loop import Form
from elman.gpu.resident import MOST_SPILLED, Resident, Tile, padded, way_of
from elman.gpu.resident_kernel import resident_kernel
from elman.gpu.source import module_from

WORDS = {"table": "*i64", "counters": "*i32", "k": "i32", "B": "i32", "steps": "i64"}
SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}  # bytes of shared memory that a program may have
# Tiles that the rule takes for sizes of bench/gpu.py, on a device, and the passes that are compiled.
RESIDENT = (
    (768, Tile(8, 8, 16, registers=True), 90, ("forward", "backward")),
    (768, Tile(16, 8, 16, registers=True), 80, ("backward",)),
    (32, Tile(8, 4, 16, registers=True), 90, ("forward",)),
    (256, Tile(8, 8, 16, registers=True), 120, ("backward",)),
    (256, Tile(8, 8, 16, "tf32x3", registers=True), 90, ("forward",)),
    (768, Tile(8, 8, 16, "tf32"), 100, ("backward",)),
)


def normalised(x: Any, R: Any, s: Any) -> State:
    v = x.a + R.a @ s.h
    return State(h=torch.tanh(torch.layer_norm(v, v.shape[-1:])))


KNOWN = cells.BUILT_IN | {"normalised": Cell(normalised, gates=("a",))}
TYPES = ((tl.bfloat16, tl.float32), (tl.float32, tl.float32), (tl.float64, tl.float64))


def compiled(kernel: Any, capability: int, warps: int = 4, **constants: Any) -> Any:
    names = [parameter.name for parameter in kernel.params]
    signature = {name: "i64" if name.startswith("at_") else WORDS.get(name, "constexpr") for name in names}
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


def resident(name: str, which: str, units: int, tile: Tile, capability: int, compiles: bool) -> None:
    cell = cells.BUILT_IN[name]
    dtype = torch.bfloat16 if tile.precision == "ieee" else torch.float32
    form = Form(cell, which, False, False, (False,), 16, units, 0, dtype, True, torch.device("cuda:0"), 0)
    made = resident_kernel(cell, which, False, False, 1, way_of(form, tile))
    print(name, which, units, capability, hashlib.sha256(made.source.encode()).hexdigest())
    if not compiles:
        return
    kernel = getattr(module_from(made.source, f"{name} {which} resident"), which)
    of: dict[str, Any] = {"H": units, "HP": padded(units, tile), "P": 0, "D": 1, "REVERSE": 0}
    of["LOW"] = tl.bfloat16 if tile.precision == "ieee" else tl.float32
    of |= {"WIDE": tl.float32, "BB": tile.rows, "BU": tile.units, "S": tile.warps, "PRECISION": tile.precision}
    of["BITS"] = tl.int16 if tile.precision == "ieee" else tl.int32
    found = compiled(kernel, capability, tile.warps, **of)
    assert found.metadata.shared <= SHARED[capability], found.metadata.shared
    assert spilled(found, capability) <= MOST_SPILLED, spilled(found, capability)
    code, loop = found.asm["ptx"], re.split("scf.for|scf.while", found.asm["ttgir"], maxsplit=1)[1]
    begin, step = code.split("read:", 1)
    meeting = r"(?:red|atom)\.global\.gpu\.release.*ld\.acquire\.gpu.*setp\.ge\.u32.*bar\.sync"
    assert re.search(meeting, begin, re.DOTALL), "one meeting, before the first step"
    assert len(re.findall(r"\.release|ld\.acquire", code)) == 2
    assert step.index("fence.acq_rel.gpu") < step.index("st.global"), "what is stored after the fence"
    if tile.precision == "tf32":  # weights and operands
        assert len(re.findall(r"cvt\.rna\.tf32", code)) > 50
    assert len(re.findall(r"fence\S*\.gpu", code)) == 1, "one fence in a step"
    assert not re.search(r"%w_\w+ = tt.load", loop), "weights are read again in every step"
    takes = made.source.count(" = take_")
    assert len(re.findall(r"^\s*read:", code, re.MULTILINE)) == takes, "operands are read once"
    passed_on = re.findall(r"convert_layout .*x(?:i16|i32|bf16)\b.*", loop)
    assert not passed_on, f"what a thread has read goes to another one: {passed_on}"
    layouts = set(re.findall(r"tt.store .*: tensor<\d+x\d+x.*, (#\w+)>", loop))
    assert len(layouts) == 1, f"the fence of a thread is for what it stores itself: {layouts}"
    weights = re.findall(r"= tt.dot %\w+, (%\w+),", loop)
    assert weights
    in_registers = [f"{name} = " not in loop for name in weights]
    assert in_registers == [tile.registers] * len(weights), (which, units, tile)


class Driver:
    """A driver of a device that is not there. It remembers what kernels are started with."""

    started: ClassVar[list[tuple[Any, ...]]] = []

    class Utilities:
        def load_binary(self, *_: Any) -> tuple[Any, ...]:
            return object(), object(), 32, 0, 1024  # module, function, registers, spilled, threads

        def get_device_properties(self, device: int) -> dict[str, int]:
            return {"max_shared_mem": SHARED[90]}

    class Launcher:
        def __init__(self, source: Any, metadata: Any) -> None:
            self.options = metadata.launch_cooperative_grid, metadata.num_warps, metadata.num_stages

        def __call__(self, *arguments: Any) -> None:
            Driver.started.append((self.options, *arguments))

    utils, launcher_cls = Utilities(), Launcher

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 7

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def start() -> None:
    """Whether a compiled kernel is started with what its parameters say. Tensors are on the CPU; nothing runs."""
    made_up: Any = Driver()
    triton.runtime.driver.set_active(made_up)
    form = Form(
        cells.lstm, "forward", False, False, (False, True), 5, 72, 0, torch.float32, False, torch.device("cpu"), 0
    )
    loop = Resident(form, Tile(8, 8, 16, "tf32x3"))
    given: dict[str, Any] = {name: torch.empty(2, 3) for name in loop.arrays if name not in loop.buffers}
    given["weight.hh"] = torch.empty(3), torch.empty(3)
    found = loop.run(9, given, ["final.h", "final.c"])
    ((options, x, y, z, stream, _, _, _, _, _, *values),) = Driver.started
    assert options == (True, 8, 1), "cooperative: programs may wait for one that has no place to run"
    assert (x, y, z, stream) == (9, 1, 2, 7)
    of = dict(zip(loop.kernel.arg_names, values, strict=True))
    assert of.pop("counters") is loop.counters
    assert (of.pop("B"), of.pop("steps")) == (5, 9)
    for name in loop.arrays:
        tensors = {**given, **found, **{name: loop.first(name) for name in loop.buffers}}[name]
        for d, tensor in enumerate(tensors):
            assert of.pop(f"at_{name.replace('.', '_')}_{d}") == tensor.data_ptr(), name
    assert of == loop.constants
    tile = {"BB": 16, "BU": 8, "S": 8, "PRECISION": "tf32x3", "BITS": tl.int32, "LOW": tl.float32, "WIDE": tl.float32}
    assert tile.items() <= of.items()
    print("started with", len(values))


def main(*names: str) -> None:
    if names == ("start",):
        start()
        return
    compiles = names[0] != "sources"
    for name in names if compiles else names[1:]:
        for which in ("forward", "backward"):
            made = kernels(KNOWN[name], which, True, True)
            module = module_from(made.source, f"{name} {which}")
            print(name, which, hashlib.sha256(made.source.encode()).hexdigest(), module.__name__)
            for capability, (low, wide) in zip((80, 90, 90), TYPES, strict=True):
                for number in range(len(made.phases)):
                    kernel = getattr(module, f"{which}_{number}")
                    of = {"H": 67, "HP": 67, "P": 33, "D": 2, "REVERSE": 2, "LOW": low, "WIDE": wide, "BLOCK": 256}
                    assert not compiles or compiled(kernel, capability, **of).asm["cubin"]
            for units, tile, capability, passes in RESIDENT:
                if which in passes and name in cells.BUILT_IN and not KNOWN[name].projected:
                    resident(name, which, units, tile, capability, compiles)


if __name__ == "__main__":
    main(*sys.argv[1:])
