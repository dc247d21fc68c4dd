"""What a resident kernel reads of an operand: the assembly of `take`, and the column in which each unit lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import elman
from cases import gradients, inputs, layer, run
from elman import cells
from elman.gpu import choice, resident_source
from elman.gpu.loop import Form
from elman.gpu.resident import Resident, Tile, way_of
from elman.gpu.resident_kernel import resident_kernel
from elman.gpu.resident_source import Way, take
from meeting import Words
from test_cpu_cells import agree

ALL_SET = {2: np.int16(-1), 4: np.int32(-1), 8: np.int64(-1)}


def way(size: int, words: int, pack: int) -> Way:
    return Way(64, 32, words, pack, 4, 8, registers=True, blocks=1, bytes=size)


def assembly(offsets: list[int], of: Way) -> str:
    return take("name", offsets, of).split('"""')[1]


@pytest.mark.parametrize("pack", [1, 2])
@pytest.mark.parametrize("words", [2, 4])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_parts_are_read_until_no_number_is_missing(size: int, words: int, pack: int) -> None:
    of, draw = way(size, words, pack), np.random.default_rng(0)
    long = words * of.word  # bytes that a thread reads at an address
    offsets = [0, 8 * long]
    memory = draw.integers(0, 255, 16 * long).astype(np.uint8)  # no byte has all bits set
    addresses = memory.ctypes.data + long * np.arange(8).reshape(2, 1, 4)

    def read() -> Words:
        return Words(assembly(offsets, of), addresses, pack)

    found = read()
    assert found.there
    kind = found.word
    expected = memory.view(kind).reshape(2, 2, 1, 4, words)  # part, S, BB, K, word
    assert len(found.found) == 2 * words
    for k, tensor in enumerate(found.found):
        np.testing.assert_array_equal(tensor, expected[k // words, ..., k % words])
    numbers = memory.view(ALL_SET[size].dtype)
    for k in range(len(numbers)):
        kept = numbers[k]
        numbers[k] = ALL_SET[size]
        waiting = read()
        assert not waiting.there, k
        numbers[k] = kept
        assert waiting.again()
    # Numbers that look alike are there: all bits but one, zero, the smallest, and a NaN with a sign.
    top = 1 << (8 * size - 1)
    for bits in (2 * top - 2, top - 1, 0, 1, top, top + 1):
        numbers[:] = np.array(bits, f"u{size}").astype(numbers.dtype)
        assert read().there, bits


@pytest.mark.parametrize("near", [1, 2])
@pytest.mark.parametrize("words", [2, 4])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_thread_reads_what_tensor_cores_want_of_it(
    size: int, words: int, near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of numbers 0, 1, 2 and so on of a row, the first group goes to the first of four threads, and so on in turn."""
    monkeypatch.setattr(resident_source, "NEAR", near)
    of = way(size, words, 1)
    long, group = words * of.word // size, near * of.word // size
    unit = np.arange(8 * long)
    spot = eval(of.spot(), {"unit": unit})
    assert sorted(spot) == unit.tolist()
    np.testing.assert_array_equal(spot // long % 4, unit // group % 4)
    for thread in range(8):  # what one thread reads is in the order in which it needs it
        own = unit[np.argsort(spot)][thread * long : (thread + 1) * long]
        assert own.tolist() == sorted(own)


@pytest.mark.usefixtures("resident")
@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
def test_pieces_that_are_not_all_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elman.gpu.resident.MOST_READ", 8)  # two of three pieces
    agree(cells.lstm, steps=2, batch=2, hidden_size=70, engine="gpu")


@pytest.mark.usefixtures("resident")
@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_all_of_a_buffer_is_set_back(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what is stored first, which nobody waits for here, since programs run in turn."""
    loops: list[Resident] = []

    def make(form: Form, graphs: bool, make: Any = choice.make) -> Resident:
        loops.append(make(form, graphs))
        return loops[-1]

    monkeypatch.setattr(choice, "make", make)
    of = layer(name, 3, 17)
    x, states = inputs(of, steps, 4)
    with elman.use_engine("gpu"):
        run(of, x, states)
        gradients(of, x, states)
    assert len(loops) >= 3
    for loop in loops:
        spot = eval(way_of(loop.form, Tile(16, 2, 2)).spot(), {"unit": np.arange(17)})
        for array, own in loop.buffers.items():
            for ahead in (1, 2):
                slots = own[(steps + ahead) % 4].unflatten(-1, (-1, loop.padded))[..., spot]
                assert (slots.view(torch.int64) == -1).all(), (loop.form.name, array, ahead)


DEVICE = torch.device("cuda:0")
PLAIN = Form(cells.lstm, "forward", False, False, (False,), 16, 768, 0, torch.float16, False, DEVICE, 0)


@pytest.mark.parametrize(
    ("form", "tile", "expected"),
    [
        (PLAIN, Tile(8, 8, 16, registers=True), Way(768, 256, 4, 2, 14, 8, True, 1, 2)),
        (PLAIN, Tile(8, 8, 16), Way(768, 256, 4, 2, 20, 8, False, 1, 2)),
        (PLAIN._replace(units=17), Tile(8, 4, 16, registers=True), Way(64, 64, 2, 2, 38, 8, True, 1, 2)),
        (PLAIN._replace(units=500), Tile(16, 8, 32, registers=True), Way(512, 512, 4, 8, 3, 4, True, 4, 2)),
        (
            PLAIN._replace(dtype=torch.float32),
            Tile(8, 8, 64, "tf32x3"),
            Way(768, 128, 4, 8, 5, 8, False, 4, 4),
        ),
    ],
)
def test_how_a_kernel_multiplies(form: Form, tile: Tile, expected: Way) -> None:
    assert way_of(form, tile) == expected


def test_others_do_not_wait_for_what_is_kept() -> None:
    lines = resident_kernel(cells.lstm, "forward", False, False, 1, way(2, 4, 1)).source.splitlines()
    stores = [line.split("address_")[1].split(" ")[0] for line in lines if line.startswith("        tl.store(address_")]
    assert stores == ["before_h", "output", "s_c", *["x"] * 4, "before_h"]
