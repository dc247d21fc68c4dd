"""The large products outside the recurrence: the input's share of every gate, its gradient, the weights' gradients.

A library's products are about as fast, but sum in an order that depends on the number of threads. Here every
element is one sum in one order: threads share rows of the result, and the depth of a weight's gradient, all
steps and rows, is cut into fixed chunks that are added one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from elman.cpu import llvm, product, threads
from elman.cpu.memory import workspace

CHUNK = 512  # steps of the depth that are packed at a time


def add_products(pairs: list[tuple[Tensor, Tensor]], out: Tensor, add: bool) -> None:
    """out (M, N) = [out +] sum of left^T right over pairs of left (K, M) and right (K, N).

    Both may be (T, B, .) with any strides but the last, which is 1.
    """
    dtype, lanes = out.dtype, llvm.target().lanes(out.dtype.itemsize)
    size = dtype.itemsize
    m_blocks, n_blocks = -(-out.shape[0] // lanes), -(-out.shape[1] // lanes)
    padded = n_blocks * lanes
    sums = workspace.tensor("sums", m_blocks * lanes, padded, dtype=dtype)
    if add:
        sums[: out.shape[0], : out.shape[1]] = out
    else:
        sums.zero_()
    left = workspace.address("left", CHUNK * m_blocks * lanes, dtype)
    right = workspace.address("right", CHUNK * padded, dtype)

    panels = product.cut(n_blocks, product.tiling(product.OUTER_ROWS, n_blocks, 1).blocks)
    tiles = product.four_tiles(product.cut(lanes, product.OUTER_ROWS), panels, 1, size)
    total = sum(a.shape[0] * a.shape[1] for a, _ in pairs)
    parts = threads.shares(m_blocks, total * out.numel(), threads.available())
    pack, outer = product.pack(False, size), product.outer(size)
    for a, a_row, b, b_row, depth in _chunks(pairs):
        of_left = (a, a_row, 0, 1, depth, out.shape[0], left, depth, 0, 1, 0, m_blocks, 1, 0)
        of_right = (b, b_row, 0, 1, depth, out.shape[1], right, depth, 0, 1, 0, *panels)
        threads.run(pack, 2, (*of_left, *of_right))
        words: list[int] = []
        for part in parts:
            words += (left, right, sums.data_ptr(), padded, depth, *part, *panels, *tiles)
        threads.run(outer, len(parts), words)
    out.copy_(sums[: out.shape[0], : out.shape[1]])


class Linear:
    """x -> x weight^T + bias, or with transposed=False x -> x weight, for a packed weight.

    weight: (N, K), or (K, N) with transposed=False; rows of any distance. bias: (N,) or None.
    """

    def __init__(self, name: str, weight: Tensor, bias: Tensor | None, rows: int, *, transposed: bool = True) -> None:
        dtype, self.size = weight.dtype, weight.dtype.itemsize
        self.units, self.depth = weight.shape if transposed else (weight.shape[1], weight.shape[0])
        lanes = llvm.target().lanes(self.size)
        blocks = -(-self.units // lanes)
        tiling = product.tiling(max(rows, 1), blocks, 1)
        self.tall, self.panels = tiling.rows, product.cut(blocks, tiling.blocks)
        self.packed = workspace.address(f"{name} weight", blocks * lanes * self.depth, dtype)
        self.bias = workspace.address(f"{name} bias", blocks * lanes, dtype)
        common = (1, self.depth, self.units, self.packed, self.depth, 0, 1, 0, *self.panels)
        threads.run(product.pack(transposed, self.size), 1, (weight.data_ptr(), weight.stride(0), 0, *common))
        if bias is None:
            workspace.tensor(f"{name} bias", blocks * lanes, dtype=dtype).zero_()
        else:
            words = (bias.data_ptr(), 1, 0, 1, 1, self.units, self.bias, 1, 0, 1, 0, *self.panels)
            threads.run(product.pack(True, self.size), 1, words)

    def __call__(self, x: Tensor, out: Tensor, *, add: bool = False) -> None:
        """x (M, K) and out (M, N), rows of any distance; with `add` the result is added to out."""
        rows = x.shape[0]
        parts = threads.shares(rows, rows * self.units * self.depth, threads.available())
        words: list[int] = []
        for first, count in parts:
            tiles = product.cut(count, self.tall)
            words += (x.data_ptr(), x.stride(0), self.depth, self.packed, self.bias, out.data_ptr(), out.stride(0))
            words += (self.units, *self.panels, first, *tiles)
            words += product.four_tiles(tiles, self.panels, 1, self.size)
        if words:
            threads.run(product.linear(self.size, add), len(parts), words)


def _chunks(pairs: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[int, int, int, int, int]]:
    """Address and distance of rows of left and right, and how many rows: never more than CHUNK."""
    for left, right in pairs:
        size = left.element_size()
        if left.stride(0) == left.stride(1) * left.shape[1] and right.stride(0) == right.stride(1) * right.shape[1]:
            left, right = left.flatten(0, 1).unsqueeze(0), right.flatten(0, 1).unsqueeze(0)
        for t in range(left.shape[0]):
            for row in range(0, left.shape[1], CHUNK):
                depth = min(CHUNK, left.shape[1] - row)
                a = left.data_ptr() + (t * left.stride(0) + row * left.stride(1)) * size
                b = right.data_ptr() + (t * right.stride(0) + row * right.stride(1)) * size
                yield a, left.stride(1), b, right.stride(1), depth
