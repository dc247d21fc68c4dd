"""Programs that read each other's results, in Triton's interpreter: each is a thread, and one runs at a time.

A program stops where it needs a result that is not there yet. Two orders of running find out whoever overwrites what
others still read, or takes an old result for a new one. In one, each program runs as far as it can before the next one
begins. In the other, `lazy`, the first one also stops whenever it says that it is done or stores something, and at each
fence, and goes on when nobody else can. What sets numbers back gets to memory as late as it may: at the next fence.
"""

from __future__ import annotations

import ctypes
import inspect
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from triton.runtime import interpreter

import quick_triton  # noqa: F401

_here = threading.local()


class Program:
    def __init__(self, index: tuple[int, ...], run: Callable[[], None], lazy: bool) -> None:
        self.index, self.lazy, self.done = index, lazy, False
        self.can_go_on: Callable[[], bool] = lambda: True
        self.error: BaseException | None = None
        self.met = False  # whether it has said that it is done with what comes before the first step
        self.pending: list[Callable[[], None]] = []  # stores that are not in memory yet
        # Both are held but for the moments in which a turn is passed on. A semaphore is Python, and takes far longer.
        self.go, self.stopped = threading.Lock(), threading.Lock()
        for turn in (self.go, self.stopped):
            turn.acquire()
        self.thread = threading.Thread(target=self.run, args=(run,), daemon=True)
        self.thread.start()

    def run(self, run: Callable[[], None]) -> None:
        self.go.acquire()
        _here.program = self
        try:
            run()
            self.flush()
        except BaseException as error:  # the thread that waits raises it
            self.error = error
        self.done = True
        self.stopped.release()

    def advance(self) -> None:
        """Lets the program run until it has to wait, or to its end."""
        interpreter.interpreter_builder.set_grid_idx(*self.index)
        self.go.release()
        self.stopped.acquire()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self.stopped.release()
        self.go.acquire()

    def wait(self, until: Callable[[], bool]) -> None:
        self.can_go_on = until
        if not until():
            self.stop()

    def loiter(self) -> None:
        self.can_go_on = lambda: True
        if self.lazy:
            self.stop()

    def flush(self) -> None:
        for store in self.pending:
            store()
        self.pending.clear()


def _number(value: Any) -> int:
    return int(value.handle.data.item())


def _count(address: int) -> ctypes.c_int32:
    """Returns the number in memory that a counter of the kernel is."""
    return ctypes.c_int32.from_address(address)


def arrive(counter: Any) -> None:
    _count(_number(counter)).value += 1
    _here.program.met = True
    _here.program.loiter()


def wait(counter: Any, target: Any) -> None:
    own, needed = _number(counter), _number(target)
    _here.program.wait(lambda: _count(own).value >= needed)


# Instructions that find out whether a number is missing.
OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "mov.u32": lambda a: a,
    "sub.u32": lambda a, b: a - b,
    "and.b32": lambda a, b: a & b,
    "lop3.b32": lambda a, b, c, table: {0xEA: (a & b) | c}[int(table)],
    "setp.ne.u32": lambda a, b: a != b,
    "setp.eq.or.s32": lambda a, b, c: (a == b) | c,
    "setp.eq.or.s64": lambda a, b, c: (a == b) | c,
}
# What ends the loop, or goes round again.
LOOP = re.compile(
    r"[{}]|\.reg .*|mov\.u32 tries, 0|read:|@!again bra done|add\.u32 tries, tries, 1|setp\.lt\.u32 more, tries, 16777216|@more bra read|trap|done:"
)


class Words:
    """What the assembly of a kernel reads from memory, in one round of its loop: arrays of words.

    Of the assembly it knows what `elman.gpu.resident_source.take` writes.
    """

    def __init__(self, assembly: str, addresses: np.ndarray, pack: int) -> None:
        self.kind: Any = interpreter.tl.int64 if ".b64" in assembly else interpreter.tl.int32
        self.word = np.int64 if ".b64" in assembly else np.int32
        results = [
            int(number) for words in re.findall(r"\{(\$.+?)\}", assembly) for number in re.findall(r"\d+", words)
        ]
        assert sorted(results) == [*range(len(results))]
        # A thread has addresses that lie beside each other.
        self.values = {f"${len(results) + k}": of for k, of in enumerate(addresses.reshape(-1, pack).T)}
        self.lines = [line.strip().rstrip(";") for line in assembly.strip().splitlines()]
        self.round(0)
        self.count, self.pack, self.shape = len(results), pack, addresses.shape

    @property
    def there(self) -> bool:
        return not self.values["again"].any()

    @property
    def found(self) -> list[np.ndarray]:
        of_tensors = range(0, self.count, self.pack)
        every = [[self.values[f"${k + own}"] for own in range(self.pack)] for k in of_tensors]
        return [np.stack(of, 1).reshape(self.shape) for of in every]

    def again(self) -> bool:
        """Runs the loop once more, and returns whether all is there now."""
        self.round(self.lines.index("read:"))
        return self.there

    def round(self, begin: int) -> None:
        """Runs the lines from one on."""
        for line in self.lines[begin:]:
            if not LOOP.fullmatch(line):
                self.run(*line.split(" ", 1))

    def run(self, name: str, operands: str) -> None:
        result, *of = [operand.strip(" {}[]") for operand in operands.split(",")]
        if not name.startswith("ld."):
            known = [self.values[x] if x in self.values else np.array(int(x, 0)).astype(self.word) for x in of]
            self.values[result] = OPERATIONS[name](*known)
            return
        words, (address, offset) = [result, *of[:-1]], of[-1].split(" + ")
        assert name == f"ld.relaxed.gpu.global.v{len(words)}.b{8 * self.word().itemsize}"
        for k, word in enumerate(words):
            self.values[word] = self.read(self.values[address] + int(offset) + self.word().itemsize * k)

    def read(self, addresses: np.ndarray) -> np.ndarray:
        kind = ctypes.c_int64 if self.word is np.int64 else ctypes.c_int32
        words = [kind.from_address(address).value for address in addresses.ravel().tolist()]
        return np.array(words, self.word).reshape(addresses.shape)

    def get_result(self, k: int) -> interpreter.TensorHandle:
        return interpreter.TensorHandle(self.found[k], self.kind)


class Nothing:
    @staticmethod
    def get_result(k: int) -> interpreter.TensorHandle:
        return interpreter.TensorHandle(np.zeros(1, np.int32), interpreter.tl.int32)


def run_assembly(
    builder: Any, assembly: str, constraints: str, values: Sequence[Any], kinds: Any, pure: bool, pack: int
) -> Words | Nothing:
    """Does what the assembly of a kernel does: it reads words from memory until none is missing, or passes a fence."""
    own = _here.program
    if "fence" in assembly:
        own.flush()
        own.loiter()
        return Nothing()
    (addresses,) = values
    found = Words(assembly, addresses.data, pack)
    if not found.there:
        own.wait(found.again)
    return found


_store = interpreter.InterpreterBuilder.create_masked_store


def store(builder: Any, addresses: Any, values: Any, *how: Any) -> None:
    """Stores now, or at the next fence what sets numbers back."""
    own = _here.program
    if own.met and (values.data.view(np.uint8) == 255).all():
        own.pending.append(lambda: _store(builder, addresses, values, *how))
        return
    own.loiter()
    _store(builder, addresses, values, *how)


class Meeting(interpreter.GridExecutor):
    """Runs all programs of a kernel, the last one first if `backwards`. The first in this order may be `lazy`."""

    backwards = False
    lazy = False

    def __call__(self, *args_dev: Any, **kwargs: Any) -> None:
        known = inspect.getfullargspec(self.fn).args
        kwargs = {name: value for name, value in kwargs.items() if name in known}
        args_hst, kwargs_hst = self._init_args_hst(args_dev, kwargs)
        patch, patched = interpreter._patch_lang, set()

        def patch_once(fn: Any) -> None:
            """What is patched for a function is patched for those beside it. To do so again at each call takes long."""
            if id(fn.__globals__) not in patched:
                patched.add(id(fn.__globals__))
                patch(fn)

        scope = patch(self.fn)
        try:
            interpreter._patch_lang = patch_once
            args = inspect.signature(self.fn).bind(*args_hst, **kwargs_hst).arguments
            args = {
                name: value if name in self.constexprs else interpreter._implicit_cvt(value)
                for name, value in args.items()
            }
            size = (*self.grid, 1, 1)[:3]
            interpreter.interpreter_builder.set_grid_dim(*size)
            places = [(x, y, z) for x in range(size[0]) for y in range(size[1]) for z in range(size[2])]
            places = places[::-1] if self.backwards else places
            programs = [Program(place, lambda: self.fn(**args), self.lazy and not k) for k, place in enumerate(places)]
            while ready := [program for program in programs if not program.done and program.can_go_on()]:
                min(ready, key=lambda program: program.lazy).advance()
            assert all(program.done for program in programs), "programs wait for each other and for nobody else"
        finally:
            interpreter._patch_lang = patch
            scope.restore()
        self._restore_args_dev(args_dev, args_hst, kwargs, kwargs_hst)
