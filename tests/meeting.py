"""Programs that meet, in Triton's interpreter: each is a thread, and one runs at a time, as far as it can.

At a meeting a program says that it is done (`arrive`), and later it waits for the others (`wait`). A program that has
not waited must not read what others store, and one that is done must have stored what others read. Two orders of running
find out whoever does so all the same. In one, each program runs as far as it can before the next one begins. In the
other, `lazy`, the first one stops whenever it says that it is done, and goes on when nobody else can.
"""

from __future__ import annotations

import ctypes
import inspect
import threading
from collections.abc import Callable
from typing import Any

from triton.runtime import interpreter

_here = threading.local()


class Program:
    def __init__(self, index: tuple[int, ...], run: Callable[[], None], lazy: bool) -> None:
        self.index, self.lazy, self.done = index, lazy, False
        self.awaited: tuple[int, int] | None = None  # the address of a counter, and what that has to reach
        self.error: BaseException | None = None
        self.go, self.stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self.run, args=(run,), daemon=True)
        self.thread.start()

    def run(self, run: Callable[[], None]) -> None:
        self.go.acquire()
        _here.program = self
        try:
            run()
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

    def can_go_on(self) -> bool:
        if self.done or self.awaited is None:
            return not self.done
        counter, target = self.awaited
        return _count(counter).value >= target


def _number(value: Any) -> int:
    return int(value.handle.data.item())


def _count(address: int) -> ctypes.c_int32:
    """Returns the number in memory that a counter of the kernel is."""
    return ctypes.c_int32.from_address(address)


def arrive(counter: Any) -> None:
    _count(_number(counter)).value += 1
    if _here.program.lazy:
        _here.program.stop()


def wait(counter: Any, target: Any) -> None:
    own = _here.program
    own.awaited = _number(counter), _number(target)
    if not own.can_go_on():
        own.stop()


class Meeting(interpreter.GridExecutor):
    """Runs all programs of a kernel, the last one first if `backwards`. The first in this order may be `lazy`."""

    backwards = False
    lazy = False

    def __call__(self, *args_dev: Any, **kwargs: Any) -> None:
        known = inspect.getfullargspec(self.fn).args
        kwargs = {name: value for name, value in kwargs.items() if name in known}
        args_hst, kwargs_hst = self._init_args_hst(args_dev, kwargs)
        scope = interpreter._patch_lang(self.fn)
        try:
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
            while ready := [program for program in programs if program.can_go_on()]:
                min(ready, key=lambda program: program.lazy).advance()
            assert all(program.done for program in programs), "programs wait for each other and for nobody else"
        finally:
            if scope is not None:
                scope.restore()
        self._restore_args_dev(args_dev, args_hst, kwargs, kwargs_hst)
