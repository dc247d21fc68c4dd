"""Programs over typed vectors, written in Python, which become LLVM's intermediate representation.

A `Program` is one function of a module. Its values have Python's operators, so that a kernel reads
like what it computes:

    with p.loop(0, count) as k:
        y = p.load(source, k * p.lanes)
        p.store(y * y + 1, target, k * p.lanes)

There are four types: whole numbers (64 bits), addresses, vectors of `lanes` floating-point numbers, and
masks. A product and a sum are fused only where a program calls `fma`. A division written `a.over(b)` may use a refined
estimate of 1 / b where that is faster. The compiler may not make any change that alters a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from elman.cpu.codegen import llvm
from elman.cpu.codegen.formats import FLOAT32, Format

INT = ir.IntType(64)
POINTER = ir.PointerType()
PATIENCE = 64  # turns of a waiting loop, a power of two, after which a thread lets another have its processor


class Value:
    """A value in a program. The other operand of its operators may be a plain Python number."""

    __slots__ = ("ir", "program")

    def __init__(self, program: Program, value: Any):
        self.program = program
        self.ir = value

    def _binary(self, other: Any, whole: str, floating: str, swap: bool = False) -> Value:
        p, vector = self.program, self.ir.type != INT
        pair = [self.ir, p.like(self, other).ir]
        left, right = reversed(pair) if swap else pair
        if vector:
            return Value(p, getattr(p.builder, floating)(left, right))
        return Value(p, getattr(p.builder, whole)(left, right))

    def __add__(self, other: Any) -> Value:
        return self._binary(other, "add", "fadd")

    __radd__ = __add__

    def __sub__(self, other: Any) -> Value:
        return self._binary(other, "sub", "fsub")

    def __rsub__(self, other: Any) -> Value:
        return self._binary(other, "sub", "fsub", swap=True)

    def __mul__(self, other: Any) -> Value:
        return self._binary(other, "mul", "fmul")

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Value:
        return self._binary(other, "", "fdiv")

    def __rtruediv__(self, other: Any) -> Value:
        return self._binary(other, "", "fdiv", swap=True)

    def __and__(self, other: Value) -> Value:
        return Value(self.program, self.program.builder.and_(self.ir, other.ir))

    def over(self, other: Value) -> Value:
        """Returns the quotient of finite numbers. With AVX-512, float32 uses an estimate of 1 / other, refined once.

        The estimate has 14 bits. The refinement is written out here, because a compiler that may approximate
        divisions does it differently depending on the surrounding code.
        """
        p = self.program
        if p.format is not FLOAT32 or llvm.target().vector_bytes != 64:
            return self / other
        estimate = p.join([p.reciprocal_estimate(part) for part in p.parts(other)])
        first = self * estimate
        return p.fma(estimate, p.fma(-other, first, self), first)

    def __neg__(self) -> Value:
        return Value(self.program, self.program.builder.fneg(self.ir))

    def _compare(self, symbol: str, other: Any) -> Value:
        p, other = self.program, self.program.like(self, other)
        compare = p.builder.icmp_signed if self.ir.type == INT else p.builder.fcmp_ordered
        return Value(p, compare(symbol, self.ir, other.ir))

    def __lt__(self, other: Any) -> Value:
        return self._compare("<", other)

    def __gt__(self, other: Any) -> Value:
        return self._compare(">", other)

    def __le__(self, other: Any) -> Value:
        return self._compare("<=", other)

    def equals(self, other: Any) -> Value:
        return self._compare("==", other)


class Program:
    """One function of a module. arguments: name -> INT or POINTER. lanes: of a vector; 0: as the format has."""

    def __init__(self, module: ir.Module, name: str, arguments: dict[str, ir.Type], form: Format, lanes: int = 0):
        self.module = module
        self.format, self.arithmetic = form, form.arithmetic
        self.lanes = lanes or form.lanes
        self.scalar = form.arithmetic.scalar
        self.bits = ir.IntType(8 * form.arithmetic.bytes)
        self.in_memory = ir.VectorType(self.scalar, self.lanes)
        self._of_width(self.lanes)
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), list(arguments.values())), name)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.given = {key: Value(self, value) for key, value in zip(arguments, self.function.args, strict=True)}

    def _of_width(self, width: int) -> None:
        self.width = width  # lanes of the vectors in arithmetic: more than `lanes` within `side_by_side`
        self.vector = ir.VectorType(self.scalar, width)
        self.bit_vector = ir.VectorType(self.bits, width)

    @contextmanager
    def side_by_side(self, count: int) -> Iterator[None]:
        """Within this context, arithmetic works on `count` vectors joined into one.

        `join` makes the long vector of loaded ones, and `parts` splits it into vectors that can be stored. Each
        operation becomes `count` independent instructions: while one waits for its operands, the others can run.
        """
        self._of_width(count * self.lanes)
        yield
        self._of_width(self.lanes)

    def join(self, vectors: Sequence[Value]) -> Value:
        """Returns one long vector of several. Their number must be a power of two."""
        joined = list(vectors)
        while len(joined) > 1:
            lanes = range(2 * self.lanes * len(vectors) // len(joined))
            joined = [self.shuffle(a, b, lanes) for a, b in zip(joined[::2], joined[1::2], strict=True)]
        return joined[0]

    def parts(self, joined: Value) -> list[Value]:
        """Returns the vectors that make up a joined one."""
        if self.width == self.lanes:
            return [joined]
        return [self.shuffle(joined, joined, range(k, k + self.lanes)) for k in range(0, self.width, self.lanes)]

    # Constants and conversions

    def int(self, value: int) -> Value:
        return Value(self, INT(value))

    def splat(self, value: float) -> Value:
        return Value(self, ir.Constant(self.vector, [value] * self.width))

    def number(self, whole: Value) -> Value:
        """Returns a vector with a whole number, as a floating-point number, in every lane."""
        return self._in_lanes(self.builder.sitofp(whole.ir, self.scalar))

    def _in_lanes(self, one: Any) -> Value:
        undefined = ir.Constant(self.in_memory, ir.Undefined)
        first = self.builder.insert_element(undefined, one, ir.IntType(32)(0))
        return Value(self, self.builder.shuffle_vector(first, undefined, _indices([0] * self.lanes)))

    def like(self, pattern: Value, value: Any) -> Value:
        """Returns a Python number as a constant of the pattern's type, and a `Value` unchanged."""
        if isinstance(value, Value):
            return value
        return self.int(value) if pattern.ir.type == INT else self.splat(float(value))

    def select(self, condition: Value, yes: Any, no: Any) -> Value:
        """Returns `yes` where the condition holds, else `no`."""
        pattern = yes if isinstance(yes, Value) else no
        return Value(self, self.builder.select(condition.ir, self.like(pattern, yes).ir, self.like(pattern, no).ir))

    def whole(self, number: Value, step: int) -> Value:
        """Returns the number rounded down to a multiple of `step`, a power of two."""
        return number & self.int(-step)

    def quotient(self, number: Value, by: Value) -> Value:
        """Returns number // by, for whole numbers from 0 to 2^31."""
        word = ir.IntType(32)
        a, b = (self.builder.trunc(value.ir, word) for value in (number, by))
        return Value(self, self.builder.zext(self.builder.udiv(a, b), INT))

    def minimum(self, a: Value, b: Value) -> Value:
        return self.select(a < b, a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        return self.select(a < b, b, a)

    def intrinsic(self, name: str, result: ir.Type, *arguments: Any) -> Any:
        """Calls one of LLVM's intrinsic functions, by its name in the language reference, and returns the result."""
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.builder.call(function, arguments)

    def elementwise(self, name: str, *vectors: Value) -> Value:
        """Applies the intrinsic llvm.`name` to vectors: fma, fabs, sqrt, maximum, ..."""
        kind = f"llvm.{name}.v{self.width}f{8 * self.arithmetic.bytes}"
        return Value(self, self.intrinsic(kind, self.vector, *(v.ir for v in vectors)))

    def fma(self, a: Value, b: Value, c: Any) -> Value:
        """Returns a b + c, rounded once if the processor has an instruction for it, else twice."""
        c = self.like(a, c)
        return self.elementwise("fma", a, b, c) if llvm.target().fused else a * b + c

    def reciprocal_estimate(self, vector: Value) -> Value:
        """Returns 1 / x to 14 bits. The vector must be a single one of float32, and the processor must have AVX-512."""
        every = ir.IntType(self.lanes)(-1)
        name = f"llvm.x86.avx512.rcp14.ps.{32 * self.lanes}"
        return Value(
            self, self.intrinsic(name, self.in_memory, vector.ir, ir.Constant(self.in_memory, ir.Undefined), every)
        )

    # Memory. Indices and offsets count elements, not bytes.

    def at(self, pointer: Value, offset: Any) -> Value:
        """Returns the address `offset` elements after the pointer."""
        offset = self.like(self.int(0), offset)
        return Value(self, self.builder.gep(pointer.ir, [offset.ir], source_etype=self.scalar))

    def load(self, pointer: Value, offset: Any = 0, mask: Value | None = None) -> Value:
        """Loads a vector. Lanes outside the mask are not read, and are zero in the result."""
        address = self.at(pointer, offset).ir
        if mask is None:
            return Value(self, self.builder.load(address, align=self.format.bytes, typ=self.in_memory))
        name = f"llvm.masked.load.v{self.lanes}f{8 * self.arithmetic.bytes}.p0"
        zero = ir.Constant(self.in_memory, [0.0] * self.lanes)
        return Value(self, self.intrinsic(name, self.in_memory, address, mask.ir, zero))

    def store(self, value: Value, pointer: Value, offset: Any = 0, mask: Value | None = None) -> None:
        """Stores a vector. Lanes outside the mask are not written."""
        address = self.at(pointer, offset).ir
        if mask is None:
            self.builder.store(value.ir, address, align=self.format.bytes)
            return
        name = f"llvm.masked.store.v{self.lanes}f{8 * self.arithmetic.bytes}.p0"
        self.intrinsic(name, ir.VoidType(), value.ir, address, mask.ir)

    def prefetch(self, pointer: Value, offset: Any = 0, write: bool = False, near: bool = True) -> None:
        """Brings memory into the caches before it is read, or with `write` written. An invalid address does no harm.

        near: whether the memory is needed soon, and goes into the closest cache; otherwise it is needed later.
        """
        word = ir.IntType(32)
        self.intrinsic(
            "llvm.prefetch.p0",
            ir.VoidType(),
            self.at(pointer, offset).ir,
            word(int(write)),
            word(3 if near else 2),
            word(1),
        )

    def broadcast(self, pointer: Value, offset: Any = 0) -> Value:
        """Loads one number and returns a vector with it in every lane."""
        return self._in_lanes(self.builder.load(self.at(pointer, offset).ir, align=self.format.bytes, typ=self.scalar))

    def load_word(self, table: Value, index: Any, kind: ir.Type) -> Value:
        """Loads entry `index` of a table of 64-bit words, as a whole number (INT) or as an address (POINTER)."""
        return Value(self, self.builder.load(self._word(table, index), typ=kind))

    def store_word(self, value: Value, table: Value, index: Any) -> None:
        """Stores a whole number or an address in entry `index` of a table of 64-bit words."""
        self.builder.store(value.ir, self._word(table, index))

    def at_word(self, table: Value, index: Any) -> Value:
        """Returns the address of entry `index` of a table of 64-bit words."""
        return Value(self, self._word(table, index))

    def address(self, number: Value) -> Value:
        """Converts a whole number into an address."""
        return Value(self, self.builder.inttoptr(number.ir, POINTER))

    def _word(self, table: Value, index: Any) -> Any:
        return self.builder.gep(table.ir, [self.like(self.int(0), index).ir], source_etype=INT)

    def next_ticket(self, counter: Value) -> Value:
        """Adds one to the whole number at an address, atomically among threads, and returns what it was before."""
        return Value(self, self.builder.atomic_rmw("add", counter.ir, INT(1), "seq_cst"))

    def wait_until(self, counter: Value, target: Value, give_way: Value) -> None:
        """Waits until other threads have raised a counter to the target.

        Every PATIENCE turns of the waiting loop it calls the function at the address `give_way`, unless that is 0.
        """
        b = self.builder
        wait = b.append_basic_block("wait")
        met = b.append_basic_block("met")
        before = b.block
        b.branch(wait)
        b.position_at_end(wait)
        turns = b.phi(INT)
        turns.add_incoming(INT(1), before)
        if self.module.triple.startswith("x86_64"):
            self.intrinsic("llvm.x86.sse2.pause", ir.VoidType())
        with b.if_then(b.icmp_signed("==", b.and_(turns, INT(PATIENCE - 1)), INT(0))), self.when(give_way > 0):
            self.call(give_way)
        come = b.load_atomic(counter.ir, "acquire", 8, typ=INT)
        turns.add_incoming(b.add(turns, INT(1)), b.block)
        b.cbranch(b.icmp_signed("<", come, target.ir), wait, met)
        b.position_at_end(met)

    def scratch(self, vectors: int) -> Value:
        """Returns the address of space for this many vectors on the stack, valid until the function returns."""
        memory: Any = self.builder.alloca(self.in_memory, vectors)
        memory.align = self.lanes * self.arithmetic.bytes
        return Value(self, memory)

    def scratch_words(self, count: int) -> Value:
        """Returns the address of space for `count` whole numbers on the stack, valid until the function returns."""
        return Value(self, self.builder.bitcast(self.builder.alloca(INT, count), POINTER))

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Returns a vector of chosen lanes of a and b; the first lane of b is numbered after the last of a."""
        return Value(self, self.builder.shuffle_vector(a.ir, b.ir, _indices(lanes)))

    def first_lanes(self, count: Value) -> Value:
        """Returns a mask of the first `count` lanes."""
        word = ir.IntType(32)
        numbers = ir.VectorType(word, self.lanes)
        undefined = ir.Constant(numbers, ir.Undefined)
        first = self.builder.insert_element(undefined, self.builder.trunc(count.ir, word), word(0))
        every = self.builder.shuffle_vector(first, undefined, _indices([0] * self.lanes))
        return Value(self, self.builder.icmp_signed("<", ir.Constant(numbers, list(range(self.lanes))), every))

    # Control

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int = 1) -> Iterator[Value]:
        """Writes the loop `for index in range(start, stop, step)`; the `with` block is its body."""
        loop = Loop(self, start, stop, step, ())
        yield loop.index
        loop.end(())

    def loop_carrying(self, start: Any, stop: Any, step: int, *carried: Value) -> Loop:
        """Begins a loop whose iterations hand the `carried` values on to the next one: see `Loop`."""
        return Loop(self, start, stop, step, carried)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.builder.if_then(condition.ir):
            yield

    @contextmanager
    def flushing_denormals(self) -> Iterator[None]:
        """On x86-64, denormal numbers count as zero within this context: they would cost slow traps."""
        if not self.module.triple.startswith("x86_64"):
            yield
            return
        word, b = ir.IntType(32), self.builder
        before, inside = b.alloca(word), b.alloca(word)
        self.intrinsic("llvm.x86.sse.stmxcsr", ir.VoidType(), before)
        b.store(b.or_(b.load(before, typ=word), word(0x8040)), inside)
        self.intrinsic("llvm.x86.sse.ldmxcsr", ir.VoidType(), inside)
        yield
        self.intrinsic("llvm.x86.sse.ldmxcsr", ir.VoidType(), before)

    def call(self, function: Value, *arguments: Value) -> None:
        """Calls the function whose address is the whole number `function`. A result is ignored."""
        self._call(function, ir.VoidType(), arguments)

    def asked(self, function: Value, *arguments: Value) -> Value:
        """Calls the function whose address is the whole number `function`, and returns its result, a 32-bit integer."""
        return Value(self, self.builder.sext(self._call(function, ir.IntType(32), arguments), INT))

    def every_bit_but(self, number: Value) -> Value:
        """Returns a whole number with all bits set except bit `number`."""
        return Value(self, self.builder.not_(self.builder.shl(INT(1), number.ir)))

    def _call(self, function: Value, result: ir.Type, arguments: Sequence[Value]) -> Any:
        kind = ir.FunctionType(result, [a.ir.type for a in arguments])
        return self.builder.call(self.builder.inttoptr(function.ir, kind.as_pointer()), [a.ir for a in arguments])

    def done(self) -> None:
        self.builder.ret_void()


def of_table(
    name: str, words: Sequence[str], addresses: Sequence[str], form: Format
) -> tuple[Program, dict[str, Value]]:
    """Returns a program whose argument is a table of 64-bit words, and the words by name.

    addresses: the names of the words that are addresses; the others are whole numbers.
    """
    p = Program(llvm.new_module(name), name, {"table": POINTER}, form)
    kinds = [POINTER if word in addresses else INT for word in words]
    return p, {word: p.load_word(p.given["table"], k, kinds[k]) for k, word in enumerate(words)}


class Loop:
    """A loop: `index` and `carried` are the values in the present iteration.

    `end` closes the loop. It takes the carried values for the next iteration and returns those after the last one.
    """

    def __init__(self, p: Program, start: Any, stop: Any, step: int, carried: Sequence[Value]):
        self.p, self.step = p, step
        start, self.stop = p.like(p.int(0), start), p.like(p.int(0), stop)
        before = p.builder.block
        self.head = p.builder.append_basic_block("loop")
        body = p.builder.append_basic_block("body")
        self.after = p.builder.append_basic_block("after")
        p.builder.branch(self.head)
        p.builder.position_at_end(self.head)
        self._phis = []
        for value in (start, *carried):
            phi = p.builder.phi(value.ir.type)
            phi.add_incoming(value.ir, before)
            self._phis.append(phi)
        inside = p.builder.icmp_signed("<", self._phis[0], self.stop.ir)
        p.builder.cbranch(inside, body, self.after)
        p.builder.position_at_end(body)
        self.index, *self.carried = (Value(p, phi) for phi in self._phis)

    def end(self, following: Sequence[Value]) -> list[Value]:
        p = self.p
        for phi, value in zip(self._phis, (self.index + self.step, *following), strict=True):
            phi.add_incoming(value.ir, p.builder.block)
        p.builder.branch(self.head)
        p.builder.position_at_end(self.after)
        return self.carried


def _indices(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
