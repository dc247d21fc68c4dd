"""Programs that meet, in Triton's interpreter: each is a thread. One runs at a time, as far as its next meeting."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

from triton.runtime import interpreter

_here = threading.local()


class Program:
    def __init__(self, index: tuple[int, ...], run: Callable[[], None]) -> None:
        self.index, self.meetings, self.done = index, 0, False
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
        """Lets the program run as far as its next meeting, or to its end."""
        interpreter.interpreter_builder.set_grid_idx(*self.index)
        self.go.release()
        self.stopped.acquire()
        if self.error is not None:
            raise self.error


def meet(counter: Any, target: Any) -> None:
    own = _here.program
    own.meetings += 1
    own.stopped.release()
    own.go.acquire()


class Meeting(interpreter.GridExecutor):
    """Runs all programs of a kernel in turn, from meeting to meeting. The order is `backwards` or not."""

    backwards = False

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
            programs = [Program(place, lambda: self.fn(**args)) for place in places]
            if self.backwards:
                programs.reverse()
            while not all(program.done for program in programs):
                for program in programs:
                    if not program.done:
                        program.advance()
                assert len({program.meetings for program in programs}) == 1, "programs met different numbers of times"
        finally:
            if scope is not None:
                scope.restore()
        self._restore_args_dev(args_dev, args_hst, kwargs, kwargs_hst)
