"""Source of the form `resident` that is the same for every cell: how programs meet, and how operands go from one to another.

An operand of a product says itself when it is there. At first its buffer is full of a NaN that no arithmetic gives, all
bits set. Whoever reads it reads a number again while it is missing. There are four buffers in turn. In step t a program
has read all of buffer t. So everybody has read all of buffer t - 1, and the program sets its own part of that back, for
step t + 3. A fence in step t + 1 comes before its results for step t + 2. Whoever has read these passes a fence, too, and
then reads buffer t + 3. One thread sets a number back, passes the fence and stores the next number; one thread reads a
number in every step. So nobody takes an old number for a new one, and no step waits for a counter or for its own stores.
Stores are ordinary ones. On NVIDIA's GPUs they go through to the cache that all programs share, and a fence waits until they
are there; the programming model alone does not promise this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton

# Before the first step all programs of the same rows meet at a counter. The last program to leave the kernel sets it to
# zero, for the next launch. A program that waits for longer than any step takes ends with an error.
MEET = '''
@triton.jit
def arrive(counter):
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, target):
    tl.inline_asm_elementwise(
        """
        {
        .reg .pred p;
        .reg .u32 seen, tries, thread;
        mov.u32 tries, 0;
        mov.u32 thread, %tid.x;
        setp.ne.u32 p, thread, 0;
        @p bra done;
        again:
        ld.acquire.gpu.global.u32 seen, [$1];
        setp.ge.u32 p, seen, $2;
        @p bra done;
        add.u32 tries, tries, 1;
        setp.lt.u32 p, tries, 16777216;
        @p bra again;
        trap;
        done:
        mov.u32 $0, 0;
        }
        """,
        "=r,l,r",
        [counter.to(tl.int64, bitcast=True), target],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
    tl.debug_barrier()


@triton.jit
def leave(counter, leaving):
    others = tl.atomic_add(leaving, 1, sem="relaxed")
    if others == tl.num_programs(0) - 1:
        tl.store(counter, 0)
        tl.store(leaving, 0)
'''


# What is missing, and what is there: a NaN that has all bits set is stored as another one. Then how an operand is made of
# words, of which a thread reads two or four that follow each other.
WORDS = """
@triton.jit
def missing(BB: tl.constexpr, BU: tl.constexpr, LOW: tl.constexpr, BITS: tl.constexpr):
    return tl.full([BB, BU], -1, BITS).to(LOW, bitcast=True)


@triton.jit
def there(x, LOW: tl.constexpr, BITS: tl.constexpr):
    bits = x.to(LOW).to(BITS, bitcast=True)
    nan = tl.full((), (1 << (BITS.primitive_bitwidth - 1)) - 1, BITS)
    return tl.where(bits == -1, nan, bits).to(LOW, bitcast=True)


@triton.jit
def fence():
    tl.inline_asm_elementwise("fence.acq_rel.gpu; mov.u32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def of_four(a, b, c, d, E: tl.constexpr, S: tl.constexpr, BB: tl.constexpr, LOW: tl.constexpr):
    return in_order(tl.join(tl.join(a, c), tl.join(b, d)), 4, E, S, BB, a.shape[2], LOW)


@triton.jit
def of_two(a, b, E: tl.constexpr, S: tl.constexpr, BB: tl.constexpr, LOW: tl.constexpr):
    return in_order(tl.join(a, b), 2, E, S, BB, a.shape[2], LOW)


@triton.jit
def in_order(words, W: tl.constexpr, E: tl.constexpr, S: tl.constexpr, BB: tl.constexpr, K: tl.constexpr, LOW: tl.constexpr):
    words = tl.permute(tl.reshape(words, (S, BB, K // 4, 4, W // E, E)), (0, 1, 2, 4, 3, 5))
    return numbers(tl.reshape(words, (S, BB, W * K)), S, BB, LOW)


@triton.jit
def numbers(words, S: tl.constexpr, BB: tl.constexpr, LOW: tl.constexpr):
    if words.dtype.primitive_bitwidth > LOW.primitive_bitwidth:
        halves = tl.join(words.to(tl.int16), (words >> 16).to(tl.int16))
        words = tl.reshape(halves, (S, BB, 2 * words.shape[2]))
    return words.to(LOW, bitcast=True)
"""


# Tensor cores cut float32 off to TF32. Rounding to the nearest halves the error. Weights are rounded when they are read,
# operands when they are stored.
ROUND = """
@triton.jit
def rounded(x, PRECISION: tl.constexpr):
    if PRECISION == "tf32":
        bits = tl.inline_asm_elementwise(
            "cvt.rna.tf32.f32 $0, $1;", "=r,r", [x.to(tl.int32, bitcast=True)], dtype=tl.int32, is_pure=True, pack=1
        )
        x = bits.to(tl.float32, bitcast=True)
    return x
"""


# Triton's own sum over warps would cost more than the product. Here one half is added to the other until one is left.
SUM = """
@triton.jit
def sum_of_parts(parts, S: tl.constexpr, BB: tl.constexpr, BU: tl.constexpr):
    for k in tl.static_range(0, 5):
        if S >> k > 1:
            halves = tl.permute(tl.reshape(parts, (2, S >> (k + 1), BB, BU)), (1, 2, 3, 0))
            first, second = tl.split(halves)
            parts = first + second
    return tl.reshape(parts, (BB, BU))
"""


# Triton takes an operand of a product into registers right before the product. If that is in a `for` loop, it does so in
# every step, also with weights. In a `while` loop it leaves weights in registers if a product before the loop needs them,
# too. So here is one whose result nobody sees.
HOLD = """
@triton.jit
def hold(weight, counters, steps, S: tl.constexpr, BB: tl.constexpr, PRECISION: tl.constexpr):
    nothing = tl.zeros([S, BB, weight.shape[1]], weight.dtype)
    product = tl.dot(nothing, weight, input_precision=PRECISION, out_dtype=tl.float32)
    at = tl.zeros([S, BB, weight.shape[2]], tl.int32)
    tl.store(counters + at, product.to(tl.int32), at > steps)
"""


# How many words of an operand follow each other in a thread when tensor cores multiply them. If Triton wants another number,
# results are the same, but words go from thread to thread through shared memory.
NEAR = 1 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 8) else 2


class Way(NamedTuple):
    """How a kernel multiplies."""

    depth: int  # of a product, with zeros at its end
    piece: int  # into which the depth is cut: an even part
    words: int  # that a thread reads at a time
    pack: int  # how many times it does so for a piece
    most: int  # pieces that are read at the same time
    together: int  # how many gates one product is for, at most
    registers: bool  # whether weights are held in registers, and not in shared memory
    blocks: int  # of 16 rows and 8 units, which tensor cores compute at a time, in a product for one gate
    bytes: int  # of a number

    @property
    def word(self) -> int:
        """Bytes of a word: a number, or two if they are small."""
        return max(4, self.bytes)

    def spot(self) -> str:
        """Returns the column of an operand in which a unit lies, so that a thread reads just what its product needs.

        Of a row, tensor cores want the first few numbers in the first of four threads, the next few in the second, and so
        on. A thread has several of these groups beside each other in memory.
        """
        near = NEAR * self.word // self.bytes  # numbers that follow each other in a thread
        group, numbers = 4 * near, self.words * self.word // self.bytes
        thread, part = f"unit % {group} // {near} * {numbers}", f"unit % {4 * numbers} // {group} * {near}"
        return f"unit // {4 * numbers} * {4 * numbers} + {thread} + {part} + unit % {near}"


def take(name: str, offsets: Sequence[int], way: Way) -> str:
    """Returns the function that reads parts of an operand until no number in them is missing.

    It is given addresses (S, BB, K). For each part, which begins so many bytes after an address, it returns tensors of the
    words that follow each other in memory. A thread reads them for `way.pack` addresses.

    Triton may take it to be pure: it gives the same words whenever a step reads them. So Triton reads every word where a
    product needs it, and not where another thread has to pass it on.
    """
    count = len(offsets) * way.words * way.pack  # the number of the first address, too
    size, register = (32, "r") if way.word == 4 else (64, "l")
    reads, checks = [], []
    for part, offset in enumerate(offsets):
        for k in range(way.pack):
            words = ", ".join(f"${(way.words * part + word) * way.pack + k}" for word in range(way.words))
            reads.append(f"ld.relaxed.gpu.global.v{way.words}.b{size} {{{words}}}, [${count + k} + {offset}];")
    for word in range(count):
        if way.bytes == 2:  # a half of ~x is zero if its borrow in ~x - 0x00010001 reaches a bit that x has
            checks += [f"sub.u32 part, 0xFFFEFFFE, ${word};", f"lop3.b32 seen, part, ${word}, seen, 0xEA;"]
        else:
            checks.append(f"setp.eq.or.s{size} again, ${word}, -1, again;")
    if way.bytes == 2:
        checks += ["and.b32 seen, seen, 0x80008000;", "setp.ne.u32 again, seen, 0;"]
    lines = [
        "{",
        ".reg .pred again, more;",
        ".reg .b32 seen, part, tries;",
        "mov.u32 tries, 0;",
        "read:",
        *reads,
        "mov.u32 seen, 0;",
        "setp.ne.u32 again, seen, 0;",
        *checks,
        "@!again bra done;",
        "add.u32 tries, tries, 1;",
        "setp.lt.u32 more, tries, 16777216;",
        "@more bra read;",
        "trap;",
        "done:",
        "}",
    ]
    kinds = ", ".join([f"tl.int{size}"] * (way.words * len(offsets)))
    constraints = ",".join([f"=&{register}"] * count + ["l"] * way.pack)
    text = "\n        ".join(lines)
    return f'''
@triton.jit
def {name}(addresses):
    return tl.inline_asm_elementwise(
        """
        {text}
        """,
        "{constraints}", [addresses], dtype=({kinds}), is_pure=True, pack={way.pack}
    )
'''
