"""The form `resident`: one kernel for all steps (resident_kernel.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from elman.gpu.loop import Form, Given, Loop
from elman.gpu.resident_kernel import held_for, resident_kernel
from elman.gpu.resident_source import Way
from elman.gpu.source import module_from
from elman.plan import plan

MOST_SPILLED = 128  # bytes that a thread may put aside
MOST_READ = 160  # registers of a thread for weights, and for what it reads of operands at the same time
MOST_HELD = 400  # bytes of weights in the registers of a thread, which has 1020 in all, if its program has 16 rows


class Tile(NamedTuple):
    """What one program computes in every step."""

    units: int
    warps: int  # parts of the depth of products, too
    rows: int
    precision: str = (
        "ieee"  # how float32 is multiplied: "tf32", or "tf32x3" for three products of TF32 that make up one
    )
    registers: bool = False  # whether weights are held in registers, and not in shared memory


# The fastest first, as measured (docs/decisions/0014).
TILES = [Tile(units, 8, rows) for rows in (16, 32, 64) for units in (8, 16)]
FEW = 64  # units that are too few for eight warps


def refusal(form: Form) -> str | None:
    """Returns why no resident kernel can run calls of this form, whatever its tile; None if one may."""
    if form.device.type != "cuda":
        return "Triton interprets kernels"
    if form.dtype == torch.float64:
        return "tensor cores multiply float64 in another way"
    if form.cell.projected:
        return f"the states of {form.cell.name} have two widths"
    todo = getattr(plan(form.cell), form.name)
    if any(todo.over_rows(number) for number in range(len(todo.phases))):
        return f"{form.cell.name} sums over all units of a row"
    if not any(todo.products):
        return f"{form.cell.name} multiplies nothing from step to step"
    return None


def candidates(form: Form) -> list[Tile]:
    """Returns the tiles for which all programs can run at the same time and hold their weights, the best first.

    float32 takes three products for one where that is cheap, or where TF32 is switched off.
    """
    every = [tile._replace(warps=4) for tile in TILES] if form.units <= FEW else TILES
    tiles = [tile for tile in every if programs(form, tile) <= processors(form.device)]
    room = shared_memory(form.device)
    if form.dtype == torch.float32:
        exact, rounded = [[tile._replace(precision=each) for tile in tiles] for each in ("tf32x3", "tf32")]
        tiles = [tile for tile in exact if 2 * slab(form, tile) <= room] + rounded if form.tf32 else exact
    return [each for tile in tiles if slab(form, tile) <= room for each in in_registers_first(form, tile)]


def in_registers_first(form: Form, tile: Tile) -> list[Tile]:
    """Returns a tile with its weights in registers, if a thread has so many, and with its weights in shared memory."""
    few = slab(form, tile) * tile.rows <= MOST_HELD * 32 * tile.warps * 16
    return [tile._replace(registers=True), tile] if few else [tile]


def bytes_of(form: Form, tile: Tile) -> int:
    """Returns the bytes of a number in shared memory. float32 in three products is kept as two numbers."""
    return form.dtype.itemsize * (2 if tile.precision == "tf32x3" else 1)


def slab(form: Form, tile: Tile) -> int:
    """Returns the bytes that a program needs for its weights."""
    of_phases = getattr(plan(form.cell), form.name).products
    held = {blocks for products in of_phases for each in products for blocks in held_for(each, together(tile))}
    return sum(blocks.gates for blocks in held) * padded(form.units, tile) * tile.units * bytes_of(form, tile)


def together(tile: Tile) -> int:
    """Returns how many gates one product is for. All its sums have to stay in registers."""
    return max(1, 64 // tile.units)


def padded(units: int, tile: Tile) -> int:
    """Returns the depth of a product, with the zeros at its end: a part for each warp, each a multiple of 16."""
    return triton.cdiv(units, 16 * tile.warps) * 16 * tile.warps


def way_of(form: Form, tile: Tile) -> Way:
    """Returns how programs of a tile multiply.

    The depth is cut into equal pieces, powers of two. As many as registers have room for are read at the same time, since to
    read takes longer than to multiply.
    """
    depth, least, size = padded(form.units, tile), 16 * tile.warps, form.dtype.itemsize
    piece, word, threads = least * (depth // least & -(depth // least)), max(4, size), 32 * tile.warps
    while piece > least and tile.rows * piece * size > 8 * 16 * threads:
        piece //= 2
    # Four threads read of a row what one part of a piece has.
    words = 4 if piece * size >= 16 * word * tile.warps else 2
    pack = max(tile.rows * piece * size // (threads * word * words), 1)
    held = slab(form, tile) // (4 * threads) if tile.registers else 0  # registers of a thread
    most = max((MOST_READ - held) // (words * pack), 1)
    blocks = max(tile.rows // 16, 1) * max(tile.units // 8, 1)
    return Way(depth, piece, words, pack, most, together(tile), tile.registers, blocks, size)


@cache
def shared_memory(device: torch.device) -> int:
    """Returns how many bytes of it a program can have."""
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


@cache
def processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def grid(form: Form, tile: Tile) -> tuple[int, int, int]:
    return triton.cdiv(form.units, tile.units), triton.cdiv(form.batch, tile.rows), len(form.reverse)


def programs(form: Form, tile: Tile) -> int:
    units, rows, directions = grid(form, tile)
    return units * rows * directions


class Resident(Loop):
    """The loop of one kernel."""

    own = "before", "operand"

    def __init__(self, form: Form, tile: Tile) -> None:
        way = way_of(form, tile)
        made = resident_kernel(form.cell, form.name, form.coded, form.afresh, len(form.reverse), way)
        super().__init__(form, made.arrays, padded(form.units, tile))
        self.module = module_from(made.source, f"{form.cell.name} {form.name} resident")
        self.kernel: Any = getattr(self.module, form.name)
        self.grid = grid(form, tile)
        _, groups, directions = self.grid
        self.counters = torch.zeros(2 * groups * directions, dtype=torch.int32, device=form.device)
        self.constants |= {"BB": tile.rows, "BU": tile.units, "S": tile.warps, "PRECISION": tile.precision}
        self.constants["BITS"] = {2: tl.int16, 4: tl.int32, 8: tl.int64}[form.dtype.itemsize]
        self.options = {"num_warps": tile.warps, "num_stages": 1, "enable_fp_fusion": True}
        self.options["launch_cooperative_grid"] = True

    @cached_property
    def compiled(self) -> Any:
        """The kernel, compiled for this device."""
        numbers = [0] * (2 + len(self.arrays) * len(self.form.reverse))
        found = self.kernel.warmup(self.counters, *numbers, **self.constants, **self.options, grid=self.grid)
        found._init_handles()
        return found

    @cached_property
    def start(self) -> Callable[..., None]:
        """Starts the kernel, given the numbers of rows and steps and all addresses.

        A kernel that is started as `kernel[grid]` looks itself up by all of its arguments, which takes longer than a few
        steps. One that is compiled does not.
        """
        if not isinstance(self.kernel, triton.JITFunction):  # it is interpreted
            return partial(self.kernel[self.grid], self.counters, **self.constants, **self.options)
        start, counters = self.compiled[self.grid], self.counters
        constants = [self.constants[name] for name in self.kernel.arg_names if name in self.constants]
        return lambda *numbers: start(counters, *numbers, *constants)

    def run(self, steps: int, given: Given, results: Sequence[str]) -> dict[str, Tensor]:
        found = {name: self.empty(self.arrays[name]) for name in results}
        self.start(self.form.batch, steps, *self.addresses({**given, **found}))
        return found

    def try_out(self) -> None:
        """Launches the kernel for no rows and no steps. RuntimeError if the device cannot run all programs at once.

        A kernel reads its weights first. Here all addresses lead to zeros.
        """
        form = self.form
        zeros = torch.zeros(len(form.cell.gates) * form.units**2, dtype=form.dtype, device=form.device)
        self.start(0, 0, *[zeros.data_ptr()] * (len(self.arrays) * len(form.reverse)))


def fits(form: Form, tile: Tile) -> bool:
    """Whether the kernel of this tile can be resident and does not put too much aside."""
    loop = Resident(form, tile)
    try:
        if loop.compiled.n_spills * 4 > MOST_SPILLED:
            return False
        loop.try_out()
    except torch.OutOfMemoryError:
        raise  # it says nothing of the kernel, and what is chosen now is kept
    except (triton.runtime.errors.OutOfResources, RuntimeError):
        return False
    return True
