"""Scripts are given arrays by name: one that is missing, unknown or in another place never becomes an address."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from cases import inputs, layer
from elman import Recurrent
from elman.cpu.codegen.formats import FLOAT32, FLOAT64
from elman.cpu.kernels import product
from elman.cpu.layer import passes
from elman.cpu.layer.backward import Wanted, backward_script
from elman.cpu.layer.form import Form, templates
from elman.cpu.layer.forward import forward_script
from elman.cpu.layer.inference import infer_script
from elman.cpu.layer.kernel_tasks import Packed, copy
from elman.cpu.layer.rows import rows_of
from elman.cpu.scripts.script import Script, Task
from elman.cpu.scripts.tape import Tape, decided, several


def gru_script() -> tuple[Script, dict[str, Any]]:
    """Inference of a GRU, the tensors that it runs on by name, and the output it should fill."""
    of = layer("gru", 3, 9)
    x, states = inputs(of, 5, 2)
    with torch.no_grad():
        call = of.call(0, x, states)
        script = infer_script(of.cell, passes.form_of(call))
        arrays = {name: t for name, t in zip(call.names(), call.tensors(), strict=True) if t is not None}
        del arrays["x"]
        arrays |= {
            "x.0": x,
            "output.0": torch.full((5, 2, 9), torch.nan, dtype=x.dtype),
            "final.h": torch.full_like(states[0], torch.nan),
        }
        arrays["expected"] = of(x, states)[0]
    return script, arrays


def test_names_in_any_order_are_the_same_call() -> None:
    script, arrays = gru_script()
    expected = arrays.pop("expected")
    for order in (script.names, tuple(reversed(script.names)), tuple(sorted(script.names))):
        arrays["output.0"].fill_(torch.nan)
        assert script({name: arrays[name].data_ptr() for name in order})
        assert torch.equal(arrays["output.0"], expected)
        arrays["output.0"].fill_(torch.nan)
        assert script.taking(order)([arrays[name].data_ptr() for name in order])
        assert torch.equal(arrays["output.0"], expected)


def missing(given: dict[str, int]) -> None:
    del given["hh.0"]


def unknown(given: dict[str, int]) -> None:
    given["stranger"] = given["hh.0"]


def renamed(given: dict[str, int]) -> None:
    given["hh.1"] = given.pop("hh.0")


WRONG: dict[str, tuple[Callable[[dict[str, int]], None], str]] = {
    "missing": (missing, r"missing: hh\.0; unknown: none"),
    "unknown": (unknown, "missing: none; unknown: stranger"),
    "renamed": (renamed, r"missing: hh\.0; unknown: hh\.1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_array_is_named(wrong: str) -> None:
    script, arrays = gru_script()
    del arrays["expected"]
    given = {name: t.data_ptr() for name, t in arrays.items()}
    change, message = WRONG[wrong]
    change(given)
    with pytest.raises(TypeError, match=message):
        script(given)
    assert arrays["output.0"].isnan().all(), "the kernels have run"


def test_a_wrong_number_of_addresses_is_refused() -> None:
    script, arrays = gru_script()
    del arrays["expected"]
    given = [arrays[name].data_ptr() for name in script.names]
    for order in (script.names, tuple(reversed(script.names))):
        for addresses in (given[1:], [*given, given[0]], []):
            with pytest.raises(TypeError, match=f"runs on {len(given)} addresses, but {len(addresses)} were given"):
                script.taking(order)(addresses)
    with pytest.raises(TypeError, match=r"given: x\.0, x\.0"):
        script.taking(("x.0", "x.0", *script.names[1:]))
    assert arrays["output.0"].isnan().all()


def test_a_name_is_given_once() -> None:
    script = Script(FLOAT32, 1)
    script.given("x")
    with pytest.raises(ValueError, match="given the array 'x' twice"):
        script.given("x")


def test_an_array_has_a_format_of_its_own() -> None:
    """Numbers of four and of eight bytes in one script, given and in rooms, found by their place among numbers."""
    tensors = {"narrow": torch.randn(3, 5), "wide": torch.randn(3, 5, dtype=torch.float64)}
    script = Script(FLOAT32, 1)
    stages: list[list[Task]] = [[], []]
    for name, form in (("narrow", None), ("wide", FLOAT64)):
        given, out = script.given(name, row=5, form=form), script.given(f"{name} out", row=2, form=form)
        room = script.room(64, row=4, form=form)
        stages[0].append(copy(given.at(row=1, column=2), room.at(row=3), 2, 2))
        stages[1].append(copy(room.at(row=3), out.at(row=1), 2, 2))
    for tasks in stages:
        script.stage(tasks)
    outs = {f"{name} out": torch.zeros(3, 2, dtype=t.dtype) for name, t in tensors.items()}
    assert script.close()({name: t.data_ptr() for name, t in (tensors | outs).items()})
    for name, t in tensors.items():
        assert torch.equal(outs[f"{name} out"], torch.cat([torch.zeros(1, 2, dtype=t.dtype), t[1:, 2:4]]))


# Sizes on both sides of what decides how a script is written: chunks of weights' gradients and of inference, tiles of
# rows, rows that are few.
SIZES = [(T, B) for T in (1, 2, 3, 7, 16, 17, 40, 131) for B in (1, 2, 5, 8, 32, 33)]


def forms(of: Recurrent, steps: int, batch: int, threads: int) -> list[tuple[Any, Form, tuple[Any, ...]]]:
    """What every kind of script is asked for, with its form."""
    x, states = inputs(of, steps, batch)
    call = of.call(0, x, states)
    output = torch.empty(steps, batch, sum(s.shape[-1] for s in states[:1]) * of.num_directions, dtype=x.dtype)
    weights = tuple(tuple(w is not None for w in weights) for weights, _ in call.directions)
    form = passes.form_of(call)._replace(threads=threads)
    wanted = Wanted(True, weights, tuple(True for _ in states))
    back = passes.form_of(call, [output, *(None for _ in states)])._replace(threads=threads)
    scripts = [(infer_script, form, (part,)) for part in ("whole", "first", "rest")]
    plain = [*scripts, (forward_script, form, ()), (backward_script, back, (wanted,))]
    draw = random.Random(steps * batch)
    rows = rows_of(torch.tensor([draw.randint(1, steps) for _ in range(batch)]), None, steps, batch, (False, True))
    edges = rows.edges(max(1, threads // of.num_directions))
    packed = Packed(rows.total, steps, batch, rows.runs, rows.last, edges)
    return plain + [
        (write, form._replace(steps=rows.steps, batch=rows.rows, packed=packed), more) for write, form, more in plain
    ]


# The layer of gru has two directions, which threads share first.
@pytest.mark.parametrize(
    ("name", "threads"), [("lstm", 1), ("gru", 1), ("gru", 2), ("projected_lstm", 2), ("coupled_peephole_lstm", 2)]
)
def test_a_script_for_other_sizes_is_as_if_written_for_them(name: str, threads: int) -> None:
    """Written on numbers of a tape that is played for other sizes, or on the sizes themselves: word for word the same."""
    of = layer(name, 40, 64, bidirectional=name == "gru")
    sizes = SIZES.copy()
    random.Random(name).shuffle(sizes)
    for steps, batch in sizes:
        for write, form, more in forms(of, steps, batch, threads):
            found, expected = write(of.cell, form, *more), write.__wrapped__(of.cell, form, *more)
            assert found.contents == expected.contents, (write.__name__, *more, steps, batch)
            for what in ("names", "keeps", "steps", "stages", "_rooms", "_threads", "_together"):
                assert getattr(found, what) == getattr(expected, what), (write.__name__, *more, what, steps, batch)
    written = [
        len(templates(write.__wrapped__, of.cell, form.opened()[0], *more))
        for write, form, more in forms(of, 1, 2, threads)
    ]
    assert max(written) <= len(SIZES) // 2, "hardly any script was written for more than one size"


def test_a_table_of_tiles_outlives_the_cache() -> None:
    """Scripts hold its address. Of two threads that make the same table at once, the cache keeps one."""
    arguments = (2, 3), 6, product.Cut(1, 1, 0), 1, FLOAT32, False
    table = weakref.ref(product._tile_table(*arguments))
    product._tile_table.cache_clear()
    product._tile_table(*arguments)
    gc.collect()
    assert table() is not None


def test_decisions_of_a_tape() -> None:
    """A number is whatever its arithmetic gives for other sizes, and never what a decision has not allowed."""
    tape = Tape([6, 4])
    a, b = tape.sizes
    late = a * b - 2 * (a // b) + -a
    assert tape.play([100, 7]) is not None
    assert a > b
    other = several(lambda n: [n * n, n + 1], a, 2)
    values = tape.play([100, 7])
    assert values is not None
    assert values[cast(Any, late).place] == 100 * 7 - 2 * (100 // 7) - 100
    assert [values[cast(Any, n).place] for n in other] == [10000, 101]
    assert tape.play([3, 7]) is None
    assert list(range(b)) == [0, 1, 2, 3]
    assert tape.play([100, 7]) is None
    assert tape.play([100, 4]) is not None
    assert decided(lambda n: n % 10, a) == 6
    assert tape.play([100, 4]) is None
    assert tape.play([106, 4]) is not None
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)


def test_nothing_of_this_is_an_assertion() -> None:
    """`python -O` drops assertions."""
    code = """
import test_cpu_scripts as own
assert False
for wrong in own.WRONG:
    own.test_a_wrong_array_is_named(wrong)
own.test_a_wrong_number_of_addresses_is_refused()
own.test_a_name_is_given_once()
print("all refused")
"""
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert "all refused" in done.stdout, done.stderr
