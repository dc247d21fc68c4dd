"""What a resident kernel reads of an operand: the assembly of `take`, and the column in which each unit lies."""

from __future__ import annotations

import numpy as np
import pytest

from elman.gpu import resident_kernel
from elman.gpu.resident_kernel import Way, take
from meeting import Words

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
        assert not read().there, k
        numbers[k] = kept
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
    monkeypatch.setattr(resident_kernel, "NEAR", near)
    of = way(size, words, 1)
    long, group = words * of.word // size, near * of.word // size
    unit = np.arange(8 * long)
    spot = eval(of.spot(), {"unit": unit})
    assert sorted(spot) == unit.tolist()
    np.testing.assert_array_equal(spot // long % 4, unit // group % 4)
    for thread in range(8):  # what one thread reads is in the order in which it needs it
        own = unit[np.argsort(spot)][thread * long : (thread + 1) * long]
        assert own.tolist() == sorted(own)
