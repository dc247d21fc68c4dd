"""Processors other than this one: lesser ones of its kind run their kernels here, others' are compiled only.

The target is chosen when the engine starts, so each case is a process of its own.
"""

from __future__ import annotations

import os

import pytest

from elman.cpu.codegen import llvm
from forks import Child, Forks

KIND = llvm.target().triple.partition("-")[0]
# The rest of the suite runs the kernels for this processor.
OTHERS = [name for name, (kind, size, *_) in llvm.NAMED.items() if (kind, size) != (KIND, llvm.target().vector_bytes)]


def child(target: str, code: str, *arguments: str) -> Child:
    environment = {"ELMAN_CPU": target, "OMP_NUM_THREADS": "1", "ELMAN_CACHE": "off", "PYTEST_ADDOPTS": ""}
    return Child(code, arguments, os.environ | environment)


# Below, at and above a vector of every width; rows that fill their tiles and do not; weights read as they lie.
SOME = [
    f"tests/test_accuracy.py::test_sizes[{cell}-{size}]"
    for cell, sizes in (
        ("gru_before", ("1x1x40x67", "4x7x16x17")),
        ("gru", ("3x13x5x15",)),
        ("coupled_peephole_lstm", ("9x6x1x16",)),
        ("projected_lstm", ("2x25x2x64",)),
    )
    for size in sizes
]
SOME += ["tests/test_accuracy.py::test_long_sums[gru-units]"]
SOME += ["tests/test_cpu.py::test_few_rows_share_units[gru_before-9x3x2x131]"]
SOME += ["tests/test_cpu.py::test_rows_of_a_batch_do_not_depend_on_each_other_to_the_bit"]


TESTS = """
import sys, pytest
options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
sys.exit(pytest.main([*options, *sys.argv[1:]]))
"""


@pytest.mark.parametrize("target", [name for name in OTHERS if llvm.NAMED[name][0] == KIND])
def test_a_lesser_processor_is_right(target: str, forks: Forks) -> None:
    """The kernels that a processor without the last vectors gets, run for real."""
    (done,) = forks.run(child(target, "from elman.cpu.codegen import llvm\nprint(llvm.target().cpu, llvm.runs_here())"))
    cpu, runs = done.stdout.split()
    assert cpu == ("generic" if target == KIND else target), done.stderr
    if runs != "True":
        pytest.skip(f"this processor is no {target}")
    # The least one alone computes functions without fused products; the rest of the suite has them with these.
    further = ["tests/test_cpu_functions.py"] if target == OTHERS[0] else []
    (done,) = forks.run(child(target, TESTS, *SOME, *further))
    assert done.returncode == 0, done.stdout[-2000:]


COMPILE = """
import sys
from elman import cells
from elman.cpu.codegen import functions, llvm
from elman.cpu.kernels import packing, recurrence, product
from elman.cpu.layer import large_products
from elman.cpu.scripts import script, team
from elman.cpu.codegen.formats import FLOAT32, FLOAT64

made = []  # the machine code of every module that would be run

def machine_code(module):
    text = llvm.assembly(module)
    assert "fmaf" not in text, "products are fused by a function of the library, number by number"
    made.append(text)
    return b""

def load(code, names):
    assert all(name in made[-1] for name in names), names
    return [1] * len(names)

llvm.machine_code, llvm.load = machine_code, load
FEW = [cells.gru_before, cells.projected_lstm, cells.peephole_lstm]  # with several phases, two widths, and vectors
FEW = FEW[: int(sys.argv[1])]
for form, some in ((FLOAT32, [*FEW, cells.rnn_relu]), (FLOAT64, FEW[:1])):
    for cell in some:
        for which in ("infer", "forward", "backward"):
            recurrence.kernel(cell, which, form, ("hidden", "projected")[: 1 + bool(cell.projected)])
    for rows, vectors in ((1, 4), (6, 2), (6, 4)):
        product.tile(rows, vectors, form, fetch=True)
    product.dots(form)
    for add in (False, True):
        large_products.linear(form, add)
        packing.copy(form, add)
    for kernel in (large_products.outer, packing.transposed, packing.rows, packing.columns, packing.total):
        kernel(form)
team.text()
print(len(made), llvm.runs_here())
print(*sorted({line.split()[0] for text in made for line in text.splitlines() if line.startswith("\\t")}))
"""


# Of those between the least and the best of this kind, only what was run above.
@pytest.mark.parametrize("target", [name for name in OTHERS if name == "x86-64" or llvm.NAMED[name][0] != KIND])
def test_every_kernel_compiles(target: str, forks: Forks) -> None:
    ran = llvm.NAMED[target][0] == KIND  # kernels of several cells, in the test above
    (done,) = forks.run(child(target, COMPILE, "1" if ran else "3"))
    assert done.returncode == 0, done.stderr[-2000:]
    count, instructions = done.stdout.split("\n")[:2]
    assert int(count.split()[0]) > 30
    has = set(instructions.split())
    fused = {"aarch64": "fmla", "x86-64-v3": "vfmadd231ps", "x86-64-v4": "vfmadd231ps"}.get(target)
    assert "mulps" in has if fused is None else fused in has
    assert not any("fma" in word for word in has) or fused


def test_an_unknown_processor_is_named(forks: Forks) -> None:
    (done,) = forks.run(child("pentium", "import elman, torch; elman.LSTM(2, 3)(torch.ones(1, 1, 2))"))
    assert done.returncode == 1
    assert "ELMAN_CPU is 'pentium' but must be one of x86-64, x86-64-v3, x86-64-v4, aarch64; unset it" in done.stderr


def test_another_kind_of_processor_is_refused(forks: Forks) -> None:
    other = "x86-64" if KIND == "aarch64" else "aarch64"
    (done,) = forks.run(child(other, "import elman, torch; elman.LSTM(2, 3)(torch.ones(1, 1, 2))"))
    assert done.returncode == 1
    assert f"kernels for ELMAN_CPU={other} cannot run on this processor" in done.stderr
