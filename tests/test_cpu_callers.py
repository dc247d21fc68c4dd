"""Engine `cpu` is right whoever calls it: workers, tasks, threads, hooks, other calls. Results are those of one
thread to the bit. What could hang runs in a process or a thread of its own, with a time that is long enough for any machine.
"""

from __future__ import annotations

import asyncio
import copy
import ctypes
import hashlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import pytest
import torch
from torch import Tensor, nn, sigmoid, tanh
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import elman
from cases import inputs, layer, normal, recurrent, run, weighted
from elman import Cell, Recurrent, State
from elman.cpu import system
from elman.cpu.scripts import memory, threads
from elman.recurrence import Choice
from test_cpu_memory import allocating

T = TypeVar("T")
LONG = 120  # seconds, after which something hangs

openmp = pytest.mark.skipif(system.parallel() is None, reason="torch has no OpenMP here")


# A call, and what comes of it on one thread.


class Call(NamedTuple):
    of: Recurrent
    x: Tensor
    states: tuple[Tensor, ...]


CELLS: dict[str, tuple[str, tuple[int, int, int, int], bool]] = {  # cell; T, B, I, H; bidirectional
    "small": ("lstm", (4, 3, 5, 9), True),
    "smaller": ("lstm", (1, 1, 2, 5), False),
    "rows": ("lstm", (16, 8, 128, 128), False),
    "directions": ("gru_before", (8, 8, 128, 128), True),
    "units": ("gru_before", (48, 1, 16, 256), False),
}
LARGE = ("rows", "directions", "units")  # what threads share; all results are too small for torch to share them
REGIONS = 3  # of a large call's results: inference, forward, backward


@cache
def call(name: str) -> Call:
    cell, (steps, batch, size, units), bidirectional = CELLS[name]
    of = layer(cell, size, units, bidirectional=bidirectional, dtype=torch.float32, seed=len(name))
    return Call(of, *inputs(of, steps, batch, seed=len(name)))


def inferred(of: Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return run(of, x, states)


def trained(of: Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Results, and the gradients of all that goes in."""
    with torch.enable_grad():  # where called in a backward, there is none
        leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
        results = run(of, leaves[0], tuple(leaves[1:]))
        found = torch.autograd.grad(weighted(results), [*leaves, *of.parameters()])
    return (*(r.detach() for r in results), *found)


def everything(of: Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (*inferred(of, x, states), *trained(of, x, states))


@contextmanager
def set_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def alone(name: str) -> tuple[Tensor, ...]:
    """Everything that comes of a call in this process, on one thread and with nobody else about."""
    with set_threads(1):
        return everything(*call(name))


def equal(found: Sequence[Tensor], exact: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))


@pytest.fixture
def teams(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Two threads for the test, and the size of every team that the engine then calls."""
    for name in CELLS:
        alone(name)
    asked: list[int] = []
    parallel = system.parallel()

    def watched(function: int, data: int, team: int, flags: int) -> None:
        asked.append(team)
        parallel(function, data, team, flags)

    if parallel is not None:
        monkeypatch.setattr(system, "parallel", lambda: watched)
    with set_threads(2):
        yield asked


def called(teams: Sequence[int], regions: int) -> None:
    """So many teams of two were called, where there is OpenMP."""
    assert list(teams) == [2] * (regions if system.parallel() is not None else 0)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What comes of calls made by a thread each, all begun together. A thread that hangs does not keep the suite."""
    begin = threading.Barrier(len(calls))
    found: dict[int, T] = {}
    errors: list[BaseException] = []

    def caller(number: int) -> None:
        try:
            begin.wait(LONG)
            found[number] = calls[number]()
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(len(calls))]
    for each in callers:
        each.start()
    for each in callers:
        each.join(LONG)
        assert not each.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return [found[number] for number in range(len(calls))]


# Processes.


class Calls(Dataset[tuple[tuple[int, int], list[Tensor]]]):
    """Everything that comes of calls, and how many threads torch and the engine had for it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.calls = [call(name) for name in names]

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, index: int) -> tuple[tuple[int, int], list[Tensor]]:
        results = list(everything(*self.calls[index]))
        return (torch.get_num_threads(), threads.available()), results


def take_two_threads(worker: int) -> None:
    torch.set_num_threads(2)


EACH = [*CELLS, "small", *reversed(CELLS)]  # an odd number of calls, so that both workers make all of them
SPAWNED = ["rows", "rows"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one processor
@pytest.mark.parametrize(
    ("method", "two", "names"),
    [("fork", False, EACH), ("fork", True, EACH), ("spawn", True, SPAWNED)],
    ids=["forked", "forked-of-two-threads", "spawned-of-two-threads"],
)
def test_workers_of_a_data_loader(method: str, two: bool, names: list[str], teams: list[int]) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    for name in names:  # a child of a process that has a team
        assert equal(everything(*call(name)), alone(name))
    called(teams, REGIONS * sum(name in LARGE for name in names))
    start = take_two_threads if two else None
    loader = DataLoader(
        Calls(names), None, num_workers=2, timeout=LONG, multiprocessing_context=method, worker_init_fn=start
    )
    for epoch in range(2 if method == "fork" else 1):
        for name, (counts, results) in zip(names, loader, strict=True):
            assert equal(results, alone(name)), (name, epoch)
            if two and system.parallel() is not None:  # a team of a forked process would wait for ever
                assert tuple(counts) == ((2, 1) if method == "fork" else (2, 2))


def end_of(child: int) -> int | str:
    """How it ends; it is not waited for very long."""
    until = time.monotonic() + LONG / 2
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "it hangs"


# What OpenMP is told by environments: values, and what it then says of itself.
ENVIRONMENTS = [
    {"OMP_NUM_THREADS": ("4", "OpenMP:"), "OMP_MAX_ACTIVE_LEVELS": ("1", "levels=1")},  # torch may take fewer threads
    {"OMP_DYNAMIC": ("true", "dynamic=1"), "OMP_NESTED": ("true", "nested=1")},
    {"OMP_THREAD_LIMIT": ("1", "limit=1")},
]
ASKED = ("directions", "units")
PLACES = ("a first call", "two threads", "four threads", "one thread", "another's setting", "a region")


def hash_of(results: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for result in results:
        digest.update(result.numpy().tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """What a process does that is started with another environment: what OpenMP says, and a hash for every place and call."""
    openmp = ctypes.CDLL(torch._C.__file__)
    answers = {"dynamic": openmp.omp_get_dynamic(), "limit": openmp.omp_get_thread_limit()}
    answers |= {"nested": openmp.omp_get_nested(), "levels": openmp.omp_get_max_active_levels()}
    print("OpenMP:", *[f"{name}={answer}" for name, answer in answers.items()])

    def tell(place: str, name: str) -> None:
        found = hash_of(everything(*call(name)))
        with told:
            print(f"{place}: {name} {found}", flush=True)

    told, parallel = threading.Lock(), system.parallel()
    raced = [lambda name=name: tell("a first call", name) for name in (*ASKED, "units")]
    for first in [raced] if "OMP_NUM_THREADS" in os.environ else [[each] for each in raced]:  # it takes its time
        at_once(first)
    for place, count in (("two threads", 2), ("four threads", 4), ("one thread", 1), ("two threads", 2)):
        torch.set_num_threads(count)
        for name in ASKED:
            tell(place, name)
    at_once([lambda: torch.set_num_threads(4)])  # it is for threads begun from now on
    for name in ASKED:
        tell("another's setting", name)
        at_once([lambda name=name: tell("another's setting", name)])

    def each(data: int) -> None:
        for name in ASKED:
            tell("a region", name)

    inside = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(each)
    torch.set_num_threads(2)
    parallel(ctypes.cast(inside, ctypes.c_void_p), None, 2, 0)


@openmp
def test_the_environment_of_openmp_does_not_change_a_bit() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    command = [sys.executable, "-W", "ignore", __file__]
    expected = {f"{place}: {name} {hash_of(alone(name))}" for place in PLACES for name in ASKED}
    with ExitStack() as ends:
        processes = []
        for told in ENVIRONMENTS:
            environment = plain | {name: value for name, (value, _) in told.items()}
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            processes.append(ends.enter_context(process))
            ends.callback(process.kill)
        for told, process in zip(ENVIRONMENTS, processes, strict=True):
            output, error = process.communicate(timeout=LONG)
            assert process.returncode == 0, f"{told}: {error[-2000:]}"
            answers, *hashes = output.splitlines()
            for name, (_, says) in told.items():
                assert f" {says} " in f" {answers} ", f"{name} has no effect: {answers}"
            assert set(hashes) == expected, told


# Tasks of asyncio.


def test_tasks_of_asyncio(teams: list[int]) -> None:
    names = [*CELLS, *reversed(CELLS)]

    async def here(name: str) -> tuple[Tensor, ...]:
        first = inferred(*call(name))
        await asyncio.sleep(0)
        return (*first, *trained(*call(name)))

    async def tasks() -> list[tuple[Tensor, ...]]:
        elsewhere = [asyncio.to_thread(everything, *call(name)) for name in names]
        return await asyncio.gather(*elsewhere, *map(here, names))

    for name, results in zip([*names, *names], asyncio.run(tasks()), strict=True):
        assert equal(results, alone(name)), name
    called(teams, REGIONS * 2 * sum(name in LARGE for name in names))


def test_an_engine_is_of_one_task_only() -> None:
    of, x, states = call("small")
    exact: dict[str | None, tuple[Tensor, ...]] = {None: alone("small")}
    for engine in ("reference", "cpu"):
        with elman.use_engine(engine):
            exact[engine] = everything(of, x, states)
    assert not equal(exact["reference"], exact["cpu"])

    def choice() -> Choice:
        return elman.describe(of, x).engines[0]

    async def task(engine: str | None) -> None:
        default = Choice("cpu", "kernels made from the cell's equations")
        asked = default if engine is None else Choice(engine, "asked for with use_engine")
        with nullcontext() if engine is None else elman.use_engine(engine):
            for _ in range(4):
                assert equal(everything(of, x, states), exact[engine])
                assert choice() == asked
                await asyncio.sleep(0)
                assert equal(await asyncio.to_thread(everything, of, x, states), exact[engine])
                assert await asyncio.to_thread(choice) == asked
                assert await asyncio.get_running_loop().run_in_executor(None, choice) == default
        await asyncio.sleep(0)
        assert choice() == default

    async def tasks() -> None:
        await asyncio.gather(*[task(engine) for engine in ("reference", None, "cpu", None, "reference")])

    asyncio.run(tasks())
    assert (
        elman.recurrence._asked.engine == "auto"
    )  # for functions that torch.compile made, nothing is left of any task


# Threads.


def test_many_threads_at_once(teams: list[int]) -> None:
    names = sorted(CELLS, key=lambda name: call(name).x.numel())
    order = [*names, *reversed(names)]  # growing and shrinking

    def caller(number: int) -> list[str]:
        wrong: list[str] = []
        for place in range(2 * len(order)):
            name = order[(place + 3 * number) % len(order)]
            only = 1 + len(call(name).states)  # results of inference come first
            infers = (place + number) % 3 != 0
            found = inferred(*call(name)) if infers else trained(*call(name))
            if not equal(found, alone(name)[:only] if infers else alone(name)[only:]):
                wrong.append(f"{name} at {place} of thread {number}, {'inference' if infers else 'training'}")
        return wrong

    assert at_once([lambda number=number: caller(number) for number in range(8)]) == [[]] * 8
    assert set(teams) == ({2} if system.parallel() is not None else set())


def own_step(x: Any, R: Any, s: Any) -> State:
    a = sigmoid(x.a + R.a @ s.h)
    return State(h=(1 - a) * tanh(x.b + R.b @ (a * s.h)) + a * s.h)


def test_threads_that_compile_a_cell_at_once(teams: list[int]) -> None:
    made = [recurrent(Cell(own_step, gates=("a", "b")), 96, 120, dtype=torch.float32) for _ in range(2)]
    arguments = inputs(made[0], 16, 12)
    raced = at_once([lambda: everything(made[0], *arguments)] * 3)
    called(teams, REGIONS * len(raced))
    with set_threads(1):
        exact = everything(made[1], *arguments)  # compiled again, by one
    assert all(equal(found, exact) for found in raced)
    with elman.use_engine("reference"):
        torch.testing.assert_close(exact, everything(made[1], *arguments), rtol=1e-3, atol=1e-3)


def test_numbers_of_threads_in_turn(teams: list[int]) -> None:
    for count in (1, 2, 4, 2):
        torch.set_num_threads(count)
        for name in CELLS:
            assert equal(everything(*call(name)), alone(name)), (name, count)
        at_once([lambda count=count: torch.set_num_threads(5 - count)])
        for name in CELLS:
            assert equal(everything(*call(name)), alone(name)), (name, count)
            (found,) = at_once([lambda name=name: everything(*call(name))])
            assert equal(found, alone(name)), (name, count)
    assert {2, 4} <= set(teams) or system.parallel() is None


@pytest.mark.parametrize("name", LARGE)
def test_a_graph_is_differentiated_by_another_thread(name: str, teams: list[int]) -> None:
    of, x, states = call(name)
    graphs: list[tuple[Tensor, list[Tensor]]] = []
    for _ in range(4):
        leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
        own = copy.deepcopy(of)
        graphs.append((weighted(run(own, leaves[0], tuple(leaves[1:]))), [*leaves, *own.parameters()]))
    at_once([graph.backward for graph, _ in graphs])
    exact = alone(name)[2 * (1 + len(states)) :]
    for _, leaves in graphs:
        assert equal([leaf.grad for leaf in leaves if leaf.grad is not None], exact)
    called(teams, 2 * len(graphs))


FORKS = """
def one(cell: str, engine: str, r: List[bool], x: Tensor, t: List[Optional[List[Tensor]]], s: List[Tensor]) -> List[Tensor]:
    return torch.ops.elman.infer(cell, engine, None, r, x, t[0], t[1], t[2], t[3], t[4], t[5], s, None, None, None, None, None)

def some(n: int, cell: str, engine: str, r: List[bool], x: Tensor, t: List[Optional[List[Tensor]]], s: List[Tensor]):
    futures = [torch.jit.fork(one, cell, engine, r, x, t, s) for _ in range(n)]
    return [torch.jit.wait(future) for future in futures]
"""


@pytest.mark.parametrize("name", LARGE)
def test_threads_of_torchs_own_that_run_an_operator(name: str, teams: list[int]) -> None:
    from elman import operators

    of, x, states = call(name)
    record = of.call(0, x, states)
    record = record.replaced([t if t is None else t.detach() for t in record.tensors()])
    key, engine, _, reverse, x, *lists = operators.arguments("cpu", record)
    scripted: Any = torch.jit.CompilationUnit(FORKS)
    for results in scripted.some(6, key, engine, reverse, x, lists[:6], lists[6]):
        assert equal(results, alone(name)[: 1 + len(states)])
    called(teams, 6)


# A call in the midst of another.


@pytest.mark.parametrize("name", CELLS)
def test_hooks_that_call_another_layer(name: str, teams: list[int]) -> None:
    of, x, states = call(name)
    of = copy.deepcopy(of)
    wrong: list[str] = []
    at: list[str] = []

    def calling(place: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            at.append(place)
            wrong.extend(other for other in CELLS if not equal(everything(*call(other)), alone(other)))

        return hook

    of.register_forward_pre_hook(calling("before forward"))
    of.register_forward_hook(calling("after forward"))
    of.register_full_backward_pre_hook(calling("before backward"))
    of.register_full_backward_hook(calling("after backward"))
    for parameter in of.parameters():
        parameter.register_hook(calling("a gradient"))
    leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
    results = run(of, leaves[0], tuple(leaves[1:]))
    results[0].register_hook(calling("the output's"))
    found = torch.autograd.grad(weighted(results), [*leaves, *of.parameters()])
    assert equal((*results, *found), alone(name)[len(results) :])
    assert not wrong
    assert {"before forward", "after forward", "before backward", "a gradient", "the output's"} <= set(at)
    assert set(teams) == ({2} if system.parallel() is not None else set())


class Through(torch.autograd.Function):
    """The identity, whose gradient is, by decree, what another layer's backward gives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inner: Recurrent) -> Tensor:
        ctx.inner = inner
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        return through(ctx.inner, cotangents[0]), None


def through(inner: Recurrent, d: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = d.detach().clone().requires_grad_()
        output = inner(leaf)[0]
        return torch.autograd.grad(output, leaf, output.detach())[0]


@pytest.mark.parametrize("sizes", [(16, 8, 128), (5, 3, 9)], ids=["large", "small"])
def test_a_backward_that_calls_another_layer(sizes: tuple[int, int, int], teams: list[int]) -> None:
    steps, batch, units = sizes
    first, inner, last = (layer("lstm", units, units, seed=seed, dtype=torch.float32) for seed in range(3))
    x, d = (normal(steps, batch, units, seed=seed, dtype=torch.float32) for seed in range(2))

    def at_one_go() -> tuple[Tensor, ...]:
        leaf = x.clone().requires_grad_()
        results = last(Through.apply(first(leaf)[0], inner))[0]
        return results.detach(), *torch.autograd.grad(results, [leaf, *first.parameters(), *last.parameters()], d)

    def in_turn() -> tuple[Tensor, ...]:
        leaf = x.clone().requires_grad_()
        before = first(leaf)[0]
        between = before.detach().clone().requires_grad_()
        results = last(between)[0]
        d_between, *d_last = torch.autograd.grad(results, [between, *last.parameters()], d)
        d_before = through(inner, d_between)
        d_first = torch.autograd.grad(before, [leaf, *first.parameters()], d_before)
        return results.detach(), *d_first, *d_last

    found = at_one_go()
    called(teams, 6 if steps == 16 else 0)
    with set_threads(1):
        assert equal(found, in_turn())


def test_more_backwards_within_each_other_than_a_stack_holds(teams: list[int]) -> None:
    of, x, _ = call("rows")
    cotangent = normal(16, 8, 128, seed=9, dtype=torch.float32)

    def gradients() -> tuple[Tensor, ...]:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(of(leaf)[0], [leaf, *of.parameters()], cotangent)

    with set_threads(1):
        exact = gradients()
    wrong: list[int] = []
    callers: set[int] = set()

    @torch.enable_grad()
    def descend(depth: int) -> None:
        leaf = x.clone().requires_grad_()
        output = of(leaf)[0]
        if depth:
            output.register_hook(lambda d: descend(depth - 1))
        if not equal(torch.autograd.grad(output, [leaf, *of.parameters()], cotangent), exact):
            wrong.append(depth)
        callers.add(threading.get_ident())

    depth = 70  # beyond 60, autograd goes on in a thread of its own
    at_once([lambda: descend(depth)])
    assert not wrong
    assert len(callers) > 1
    called(teams, 2 * (depth + 1))


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved-tensors", "reentrant"])
@pytest.mark.parametrize("name", CELLS)
def test_checkpoints(name: str, reentrant: bool, teams: list[int]) -> None:
    of, x, states = call(name)
    leaves = [value.detach().clone().requires_grad_() for value in (x, *states)]
    results = checkpoint(lambda *given: run(of, given[0], given[1:]), *leaves, use_reentrant=reentrant)
    assert isinstance(results, tuple)
    own = copy.deepcopy(of)  # .backward() alone is allowed of the reentrant kind
    results = checkpoint(lambda *given: run(own, given[0], given[1:]), *leaves, use_reentrant=reentrant)
    assert isinstance(results, tuple)
    weighted(results).backward()
    found = [leaf.grad for leaf in (*leaves, *own.parameters()) if leaf.grad is not None]
    assert equal((*results, *found), alone(name)[len(results) :])


def test_a_name_that_two_ask_for_at_once_is_known_to_both() -> None:
    from elman import names

    lines, number = itertools.count(), 0

    def another() -> None:
        if next(lines) == number:
            assert names.find(names.register(own)) is own

    while True:
        own, lines = Cell(own_step, gates=("a", "b"), name=f"asked for at line {number}"), itertools.count()
        with at_every_line("names", another):
            assert names.register(own).startswith(own.name)
        if next(lines) <= number:
            break
        number += 1
    assert number > 4


# A call that fails.


class NoMemoryError(RuntimeError): ...


EVERY = 1 << 62  # time


class Memory:
    """What is allocated, so many times at most, and given back: it then holds NaN, in every format, and nobody may write to it."""

    def __init__(self) -> None:
        self.most = EVERY
        self.count = 0
        self.freed: list[Tensor] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self.count == self.most:
            raise NoMemoryError
        self.count += 1
        numbers = torch.empty(shape, dtype=dtype)
        given = numbers.view(shape)
        weakref.finalize(given, self.free, numbers)
        return given

    def free(self, numbers: Tensor) -> None:
        self.freed.append(numbers.view(torch.uint8).fill_(0xFF))


def test_a_call_without_memory() -> None:
    exact = {name: alone(name)[: 1 + len(call(name).states)] for name in ("smaller", "small", "rows")}
    for most in itertools.count():
        given = Memory()
        with allocating(given.empty):
            for name in ("smaller", "small"):
                assert equal(inferred(*call(name)), exact[name])
            given.most = given.count + most
            try:
                inferred(*call("rows"))
            except NoMemoryError:
                failed = True
            else:
                failed = False
            given.most = EVERY
            for name in ("small", "smaller", "rows", "small"):
                assert equal(inferred(*call(name)), exact[name]), (name, most)
        assert all((freed == 0xFF).all() for freed in given.freed), most
        if not failed:
            assert most > 2 * len(exact["rows"])  # at every result, and at every room of the workspace
            break


@contextmanager
def at_every_line(of: str, do: Callable[[], None]) -> Iterator[None]:
    """`do` wherever, in files of this name of the engine, Python might handle a signal: before every line."""
    before = sys.gettrace()

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            do()
        return line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        return line if "elman" in path.parts and path.stem in of.split() else None

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("name", ["small", "rows"])
def test_a_signals_handler_that_calls_another_layer(name: str, teams: list[int]) -> None:
    others = [other for other in ("smaller", "small", "rows") if other != name]
    numbers = itertools.count()
    wrong: list[str] = []

    def handler() -> None:
        number = next(numbers)
        other = others[number % len(others)]
        found = inferred(*call(other))
        if not equal(found, alone(other)[: len(found)]):
            wrong.append(f"{other}, at {number}")

    everything(*call(name))  # its scripts are written
    memory.of_thread.workspace.clear()
    for _ in range(2):  # with an empty workspace, and with one that serves
        with at_every_line("memory passes script", handler):
            results = everything(*call(name))
        assert equal(results, alone(name))
    assert not wrong
    assert next(numbers) > 200


@pytest.mark.parametrize(
    ("kept", "afterwards"),
    [(memory.KEPT_BYTES, ("small", "smaller", "rows", "small")), (1 << 16, ("rows", "small", "rows"))],
    ids=["kept", "given-back"],
)
def test_a_call_that_is_interrupted(kept: int, afterwards: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT_BYTES", kept)
    exact = {name: alone(name)[: 1 + len(call(name).states)] for name in ("smaller", "small", "rows")}
    lines = itertools.count()

    def interrupt() -> None:
        if next(lines) == number:
            raise KeyboardInterrupt

    for number in itertools.count():
        given = Memory()
        with allocating(given.empty):
            for name in ("smaller", "small"):
                assert equal(inferred(*call(name)), exact[name])
            lines = itertools.count()
            try:
                with at_every_line("memory script", interrupt):
                    inferred(*call("rows"))
            except KeyboardInterrupt:
                interrupted = True
            else:
                interrupted = False
            for name in afterwards:
                assert equal(inferred(*call(name)), exact[name]), (name, number)
        assert all((freed == 0xFF).all() for freed in given.freed), number
        if not interrupted:
            assert number > 50
            break


def test_a_workspace_that_an_interrupt_left_busy_is_replaced() -> None:
    left = memory.of_thread.workspace
    left.busy = True  # as an interrupt leaves it that comes just before the call's last line
    assert equal(everything(*call("small")), alone("small"))
    assert memory.of_thread.workspace is not left
    assert not memory.of_thread.workspace.busy
    assert memory.of_thread.workspace._buffers


def test_a_large_buffer_does_not_outlive_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    everything(*call("small"))
    own = memory.of_thread.workspace
    for kept, after in ((1 << 30, True), (1, False)):
        monkeypatch.setattr(memory, "KEPT_BYTES", kept)
        own.clear()
        everything(*call("rows"))
        assert bool(own._buffers) == after


# Modes.

MODES: dict[str, Callable[[], Any]] = {
    "inference": torch.inference_mode,
    "no inference": lambda: torch.inference_mode(False),
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
}


def test_a_workspace_that_grows_in_one_mode_serves_the_others() -> None:
    sizes = ("smaller", "small", "rows")
    exact = {name: alone(name) for name in sizes}
    count = 1 + len(call("rows").states)
    for modes in itertools.product((True, False), repeat=len(sizes)):
        memory.of_thread.workspace.clear()
        for name, inference in [*zip(sizes, modes, strict=True), *zip(sizes, reversed(modes), strict=True)]:
            if inference:
                with torch.inference_mode():
                    results = run(*call(name))
                assert all(result.is_inference() for result in results)
                assert equal(results, exact[name][:count]), (name, modes)
            else:
                assert equal(trained(*call(name)), exact[name][count:]), (name, modes)


@pytest.mark.parametrize("name", ["small", "rows"])
def test_modes_within_modes(name: str, teams: list[int]) -> None:
    of, x, states = call(name)
    assert len(states) == 2
    count = 1 + len(states)
    torchs = nn.LSTM(of.input_size, of.hidden_size, bidirectional=of.bidirectional)
    torchs.load_state_dict(of.state_dict())
    differentiated = 0
    for depth in range(1, 4):
        for modes in itertools.product(MODES, repeat=depth):
            with ExitStack() as entered:
                for mode in modes:
                    entered.enter_context(MODES[mode]())
                results = run(of, x, states)
                expected = run(torchs, x, states)
            assert equal(results, alone(name)[:count]), modes
            assert [r.is_inference() for r in results] == [r.is_inference() for r in expected], modes
            assert [r.requires_grad for r in results] == [r.requires_grad for r in expected], modes
            if results[0].requires_grad and depth < 3:
                d = torch.autograd.grad(weighted(results), list(of.parameters()))
                assert equal(d, alone(name)[2 * count + 1 + len(states) :]), modes
                differentiated += 1
    assert differentiated > 8


def outcome(make: Callable[[], tuple[Tensor, tuple[Tensor, Tensor]]]) -> Any:
    """What is told by the results without their values: of each whether it is of inference, and has a gradient."""
    try:
        output, (h_n, c_n) = make()
    except RuntimeError as error:
        return str(error)
    return [(result.is_inference(), result.requires_grad) for result in (output, h_n, c_n)]


def test_what_was_made_in_inference_mode_is_taken_as_by_torch() -> None:
    found = []
    for of_kind in (elman.LSTM, nn.LSTM):
        outcomes: dict[tuple[str, ...], Any] = {}
        with torch.inference_mode():
            x_there, there = torch.ones(2, 3, 4), of_kind(4, 5)
        x_here, here = torch.ones(2, 3, 4), of_kind(4, 5)
        for names in itertools.product(("x there", "x here"), ("layer there", "layer here"), MODES):
            x, of = (x_there if names[0] == "x there" else x_here), (there if names[1] == "layer there" else here)
            with MODES[names[2]]():
                outcomes[names] = outcome(lambda x=x, of=of: of(x))
        found.append(outcomes)
    assert found[0] == found[1]
    assert "Inference tensors cannot be saved for backward" in found[0]["x there", "layer here", "gradients"]


if __name__ == "__main__":
    main()
