"""The engine `gpu` on an NVIDIA GPU: as accurate as torch, and how fast. Under ten minutes.

    python bench/gpu.py                        # everything
    python bench/gpu.py --only accuracy,times --dtypes bf16
    python bench/gpu.py --only tiny            # what compute-sanitizer looks at
    python bench/gpu.py --only tiles           # every tile of the form `resident`

accuracy   every cell and type by the rule of tests/accuracy.py, in both forms of the time loop. torch's side is
           torch.nn where it has the cell, else the engine `reference`, in the same type and with the same switch for
           TF32. Processes share the GPU here, since most of the time goes into compiling.
again      whether results are equal to the bit when run again, on two streams at once, in a CUDA graph of the user's
other      torch.compile, torch.export, DistributedDataParallel, cuDNN's weights in one piece
first      seconds of the first call of a cell and size in a new process, and in the next process
lm         characters a second of `elman train lm` in bfloat16, when it has compiled its kernels
steps      milliseconds of a training step of a language model under autocast to bfloat16
times      milliseconds, forward alone and with backward, medians. torch: torch.nn; auto: what elman chooses; gpu: this
           engine; loop: the engine `reference`. A cell whose results are not accurate has no times.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, sigmoid, tanh
from torch.nn.functional import layer_norm

import elman
from elman import Cell, Recurrent, State, cells
from elman.cell import cell as make_cell
from elman.gpu import choice, resident
from elman.gpu.loop import Form

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
# How many random cases one figure of accuracy is taken over. A unit of `rnn_relu` that falls to the other side of zero
# changes gradients by all of their size, so that four cases say little.
SEEDS = {"rnn_relu": 24}
SHAPES = [(1024, 16, 768), (1024, 1, 256), (100, 64, 512), (35, 20, 650)]  # T, B, H
FORMS = ("steps", "auto")
PEERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


@make_cell(gates=("f", "z"), states=("h", "c"))
def users_cell(x, R, s):
    """One product, and a state of its own: what a user would write."""
    f = sigmoid(x.f + R.f @ s.h)
    c = f * s.c + (1 - f) * tanh(x.z + R.z @ s.h)
    return State(h=tanh(c) * (1 - 0.5 * f), c=c)


@make_cell(gates=("a", "b"), states=("h", "m"))
def three_phases(x, R, s):
    u = tanh(x.a + R.a @ s.h)
    v = sigmoid(x.b + R.b @ u)
    w = torch.maximum(R.a @ v, torch.minimum(u, v))
    m = 0.9 * s.m + 0.1 * w / (1.5 + abs(w))
    return State(h=tanh(u) + m * v, m=m)


@make_cell(gates=("a", "b"), states=("h", "c"))
def many_operations(x, R, s):
    u, v = x.a + R.a @ s.h, x.b + R.b @ s.h
    w = torch.where(u < v, torch.erf(u), torch.erf(v))
    c = 0.5 * s.c + torch.log1p(v * v) / (2 + torch.exp(-abs(u)))
    return State(h=w * torch.sqrt(1 + v * v) / (1 + abs(v)), c=c)


@make_cell(gates=("f", "z"), states=("h", "c"))
def normalised(x, R, s):
    """Means over all units cut its step into phases."""
    f = sigmoid(layer_norm(x.f + R.f @ s.h, s.h.shape[-1:]))
    c = f * s.c + (1 - f) * tanh(x.z + R.z @ s.h)
    return State(h=tanh(layer_norm(c, c.shape[-1:])), c=c)


@make_cell(gates=("f", "z"), streams=("gap", "mask"))
def with_streams(x, R, s, u):
    h = s.h * torch.exp(-abs(u.gap))
    f = sigmoid(x.f + R.f @ (h * u.mask))
    return State(h=f * h + (1 - f) * tanh(x.z + R.z @ h))


USERS = users_cell, three_phases, many_operations, normalised, with_streams
CELLS: dict[str, Cell] = {**cells.BUILT_IN} | {of.name: of for of in USERS}


def layer_of(name: str, inputs: int, units: int, dtype: torch.dtype, **options: Any) -> Recurrent:
    cell = CELLS[name]
    if cell.projected:
        options.setdefault("proj_size", units // 2)
    return Recurrent(cell, inputs, units, device="cuda", dtype=dtype, **options)


def peer_of(name: str, of: Recurrent) -> torch.nn.Module | None:
    if name not in PEERS:
        return None
    weight = of.weight_ih_l0
    peer = PEERS[name](of.input_size, of.hidden_size, bidirectional=of.bidirectional, device="cuda", dtype=weight.dtype)
    peer.load_state_dict(of.state_dict())
    peer.flatten_parameters()
    return peer


def use_form(form: str | resident.Tile) -> None:
    """Lets the engine `gpu` use one form of the time loop: "steps", a tile of the form `resident`, or "auto"."""
    choice.choose.cache_clear()
    choice._loops.clear()
    given = {"auto": resident.candidates, "steps": lambda form: []}
    choice.candidates = given[form] if isinstance(form, str) else lambda form_: [form]


# Accuracy.


def mean_square(t: Tensor) -> float:
    return t.double().square().mean().item()


def everything(
    of: Any, engine: str, x: Tensor, state: Any, seed: int, lengths: Tensor | None = None
) -> dict[str, Tensor]:
    """Results and all gradients, for random cotangents on the output and on every final state."""
    leaves = [x, *state]
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    hx = leaves[1] if len(leaves) == 2 else tuple(leaves[1:])
    options: dict[str, Any] = {} if lengths is None else {"lengths": lengths}
    names = of.cell.streams if isinstance(of, Recurrent) else ()
    normal = torch.Generator(device="cuda").manual_seed(seed + 1)
    shape = *x.shape[:2], of.hidden_size
    streams = [torch.randn(shape, generator=normal, device="cuda", dtype=torch.float64).to(x.dtype) for _ in names]
    leaves += [stream.requires_grad_() for stream in streams]
    if names:
        options["streams"] = dict(zip(names, streams, strict=True))
    with elman.use_engine(engine):
        output, h_n = of(leaves[0], hx, **options)
        results = [output, *((h_n,) if isinstance(h_n, Tensor) else h_n)]
        generator = torch.Generator(device="cuda").manual_seed(seed)
        cotangents = [
            torch.randn(r.shape, generator=generator, device="cuda", dtype=torch.float64).to(x.dtype) for r in results
        ]
        parameters = dict(of.named_parameters())
        d = torch.autograd.grad(
            results, [*leaves, *parameters.values()], [c.to(r.dtype) for c, r in zip(cotangents, results, strict=True)]
        )
    names = [*(f"d_state{k}" for k in range(len(state))), *(f"d_u.{name}" for name in names)]
    names = ["d_x", *names, *(f"d_{name}" for name in parameters)]
    found = {"output": output} | {f"final{k}": r for k, r in enumerate(results[1:])} | dict(zip(names, d, strict=True))
    return {name: t.detach() for name, t in found.items()}


class Case(NamedTuple):
    """What accuracy is judged on."""

    cell: str
    dtype: str
    form: str
    coded: bool = False  # whether sequences have lengths
    tf32: bool = False
    batch: int = 9
    units: int = 72

    def __str__(self) -> str:
        setting = f"{'coded ' if self.coded else ''}{'tf32 ' if self.tf32 else ''}{self.form}"
        return f"{self.cell:24}{self.dtype:6}{setting:18}{self.units:4}"


def errors(case: Case, seed: int) -> dict[str, tuple[float, float, float]]:
    """Returns for each result and gradient the mean squares of our error, of torch's error and of the value."""
    steps, batch, units, dtype = 40, case.batch, case.units, DTYPES[case.dtype]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = case.tf32
    torch.manual_seed(seed)
    of = layer_of(case.cell, 24, units, dtype, bidirectional=True)
    with torch.no_grad():
        for p in of.parameters():
            p.normal_(0, p.shape[1] ** -0.5 if p.dim() == 2 and p.shape[0] > 3 else 0.7)
    x = torch.randn(steps, batch, 24, device="cuda").to(dtype)
    widths = of.cell.widths(of.hidden_size, of.proj_size)
    state = [torch.randn(2, batch, width, device="cuda").to(dtype) for width in widths]
    lengths = torch.randint(0, steps + 1, (batch,)).cuda() if case.coded else None
    mine = everything(of, "gpu", x, state, seed, lengths)
    peer = None if case.coded else peer_of(case.cell, of)
    theirs = everything(of if peer is None else peer, "reference", x, state, seed, lengths)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    double = layer_of(case.cell, 24, units, torch.float64, bidirectional=True)
    double.load_state_dict(of.state_dict())
    exact = everything(double, "reference", x.double(), [s.double() for s in state], seed, lengths)
    return {
        key: (mean_square(mine[key] - value), mean_square(theirs[key] - value), mean_square(value))
        for key, value in exact.items()
    }


def judge(case: Case) -> dict[str, Any]:
    """Returns the largest error / allowed error of all results and gradients, over some random cases."""
    try:
        use_form(case.form)
        seeds = SEEDS.get(case.cell, 4)
        every = [errors(case, seed) for seed in range(seeds)]
        worst, at = 0.0, ""
        for key in every[0]:
            own, torchs, size = (math.sqrt(sum(of[key][k] for of in every) / seeds) for k in range(3))
            allowed = 1e-13 * size if case.dtype == "fp64" else 2 * torchs + 1e-7 * size
            ratio = own / allowed if own == own else math.inf
            if ratio > worst:
                worst, at = ratio, key
    except Exception as error:
        worst, at = math.inf, repr(error)[:300]
    return case._asdict() | {"worst": worst, "at": at}


def judged_cases(dtypes: list[str], forms: list[str]) -> list[Case]:
    """Returns cases in these forms: plain ones, with lengths, and where float32 is multiplied in TF32, large ones, too."""
    found = []
    for name in CELLS:
        for form in forms:
            for dtype in [*dtypes, "fp64"]:
                found += [Case(name, dtype, form), Case(name, dtype, form, coded=True)]
            if "fp32" in dtypes:
                found += [Case(name, "fp32", form, tf32=True), Case(name, "fp32", form, coded=True, tf32=True)]
                found += [Case(name, "fp32", form, tf32=True, batch=32, units=520)]
    return found


def again(dtype: torch.dtype, form: str) -> dict[str, bool]:
    """Whether results are equal to the bit: run again, on two streams at once, and in a CUDA graph of the user's."""
    use_form(form)
    of, other = layer_of("peephole_lstm", 24, 72, dtype), layer_of("gru_before", 24, 72, dtype)
    x = torch.randn(50, 9, 24, device="cuda").to(dtype)
    found = {}

    def train(layer: Recurrent) -> list[Tensor]:
        own = x.detach().clone().requires_grad_()
        with elman.use_engine("gpu"):
            output, _ = layer(own)
        return [output.detach(), *torch.autograd.grad(output.float().square().sum(), [own, *layer.parameters()])]

    def same(a: list[Tensor], b: list[Tensor]) -> bool:
        return all(torch.equal(one, two) for one, two in zip(a, b, strict=True))

    first, second = train(of), train(other)
    found["again"] = same(first, train(of)) and same(second, train(other))
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results: list[list[Tensor]] = []
    for _ in range(5):
        results = []
        for stream, layer in zip(streams * 2, (of, other, other, of), strict=True):
            with torch.cuda.stream(stream):
                results.append(train(layer))
    torch.cuda.synchronize()
    found["two streams"] = all(same(a, b) for a, b in zip(results, (first, second, second, first), strict=True))

    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        train(of)
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        recorded = train(of)
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    found["user's graph"] = same(recorded, first)
    return found


def compiled() -> bool:
    of = layer_of("peephole_lstm", 24, 72, torch.bfloat16)
    x = torch.randn(20, 9, 24, device="cuda").bfloat16()
    with torch.no_grad():
        return torch.equal(torch.compile(of, fullgraph=True)(x)[0], of(x)[0])


def exported() -> bool:
    of = layer_of("coupled_lstm", 24, 72, torch.bfloat16)
    x, longer = (torch.randn(steps, 9, 24, device="cuda").bfloat16() for steps in (20, 31))
    program = torch.export.export(of, (x,), dynamic_shapes=({0: torch.export.Dim("T")},)).module()
    with torch.no_grad():
        return torch.equal(program(longer)[0], of(longer)[0])


def one_of_two(rank: int, folder: str) -> None:
    """A process of two that train on halves of a batch, on one GPU. Gradients must be those of the whole batch."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    of = layer_of("peephole_lstm", 24, 72, torch.float32)
    x = torch.randn(20, 8, 24, device="cuda")
    alone = torch.autograd.grad(of(x)[0].square().mean(), list(of.parameters()))
    both = nn.parallel.DistributedDataParallel(of)
    both(x[:, rank * 4 : rank * 4 + 4])[0].square().mean().backward()
    for d, p in zip(alone, of.parameters(), strict=True):
        torch.testing.assert_close(p.grad, d, rtol=1e-2, atol=1e-5)
    dist.destroy_process_group()


def distributed() -> bool:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, context) as pool:
        for done in [pool.submit(one_of_two, rank, folder) for rank in range(2)]:
            done.result()  # raises what the process has raised
    return True


def in_one_piece() -> bool:
    """Whether cuDNN takes the weights without copying them: it would warn."""
    with warnings.catch_warnings(), elman.use_engine("native"):
        warnings.simplefilter("error")
        for dtype in (torch.float16, torch.float32):
            for name in PEERS:
                of = elman.Recurrent(CELLS[name], 24, 72, num_layers=2, bidirectional=True).cuda().to(dtype)
                of(torch.randn(5, 2, 24, device="cuda", dtype=dtype))[0].float().sum().backward()
    return True


FIRST = """
import sys, time, torch, elman
sys.path.insert(0, {here!r})
import gpu
of = gpu.layer_of("users_cell", 768, 768, torch.bfloat16)
x = torch.randn(64, 16, 768, device="cuda").bfloat16()
(x[0] @ x[0].t()).sum().item()
begin = time.perf_counter()
of(x)[0].sum().backward()
torch.cuda.synchronize()
print(time.perf_counter() - begin)
"""


def first() -> list[float]:
    """Seconds of the first call forward and backward, in a new process without a cache and in the next one with it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", FIRST.format(here=str(Path(__file__).parent))]
        environment = os.environ | {"TRITON_CACHE_DIR": folder}
        return [
            float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
            for _ in range(2)
        ]


# Times.


def milliseconds(*runs: Callable[[], Any], turns: int = 20) -> list[float]:
    """The median time of each run, by the GPU's own clock.

    They take turns, so that a machine that gets slower or faster does so for all of them. In a turn, a run is repeated for
    ten milliseconds, or runs once.
    """
    times: list[list[float]] = [[] for _ in runs]

    def take(run: Callable[[], Any]) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    once = [min(take(run) for _ in range(3)) for run in runs]
    for _ in range(turns):
        for run, found, expected in zip(runs, times, once, strict=True):
            found += [take(run) for _ in range(max(1, int(10 / expected)))]
    return [statistics.median(found) for found in times]


def both_ways(of: Any, x: Tensor, engine: str) -> list[Callable[[], None]]:
    """Returns what runs a layer forward, and what runs it forward and backward."""
    own = x.detach().clone().requires_grad_()
    parameters = [own, *of.parameters()]

    def infer() -> None:
        with elman.use_engine(engine), torch.no_grad():
            of(x)

    def train() -> None:
        with elman.use_engine(engine):
            output = of(own)[0]
            torch.autograd.grad(output, parameters, torch.ones_like(output))

    return [infer, train]


def times(names: list[str], dtype: torch.dtype, loops: bool, wrong: set[str]) -> list[dict[str, Any]]:
    rows = []
    torch.backends.cudnn.allow_tf32 = True
    for name in set(names) & wrong:
        print(f"  {name}: not accurate, so not timed")
    for shape in SHAPES:
        try:
            rows += times_of([name for name in names if name not in wrong], dtype, loops, shape)
        except Exception as error:
            traceback.print_exc()
            rows.append({"shape": shape, "dtype": str(dtype)[6:], "error": repr(error)})
    return rows


def times_of(names: list[str], dtype: torch.dtype, loops: bool, shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Returns and prints a row for each cell: pairs of milliseconds, forward and with backward."""
    rows, runs, timed, layers = [], [], [], []
    choice.KEPT = 64  # all that take turns stay ready
    torch.manual_seed(0)
    x = torch.randn(*shape, device="cuda").to(dtype)

    def add(row: dict[str, Any], key: str, of: Any, engine: str) -> None:
        timed.append((row, key))
        runs.extend(both_ways(of, x, engine))

    for name in names:
        of, row = layer_of(name, shape[2], shape[2], dtype), {"shape": shape, "cell": name, "dtype": str(dtype)[6:]}
        peer = peer_of(name, of)
        if peer is not None:
            add(row, "torch", peer, "auto")
            add(row, "auto", of, "auto")
        begin = time.perf_counter()
        with elman.use_engine("gpu"), torch.no_grad():
            of(x)
        torch.cuda.synchronize()
        row["first"] = time.perf_counter() - begin
        add(row, "gpu", of, "gpu")
        rows.append(row)
        layers.append(of)
    found = milliseconds(*runs)
    for k, (row, key) in enumerate(timed):
        row[key] = found[2 * k], found[2 * k + 1]
    use_form("steps")
    for row, of in zip(rows, layers, strict=True):
        row["steps"] = tuple(milliseconds(*both_ways(of, x, "gpu"), turns=5))
    use_form("auto")
    for row, of in zip(rows, layers, strict=True):
        if loops and row["cell"] == "peephole_lstm":
            row["loop"] = tuple(milliseconds(*both_ways(of, x, "reference"), turns=3))
        text = "  ".join(
            f"{key} {value[0]:.3f} {value[1]:.3f}" if isinstance(value, tuple) else f"{key} {value:.2f}"
            for key, value in row.items()
            if key in ("torch", "auto", "gpu", "steps", "loop", "first")
        )
        print(f"  {shape!s:18}{row['dtype']:10}{row['cell']:16}{text}", flush=True)
    return rows


def compile_for(name: str, dtype: str, shape: tuple[int, int, int]) -> None:
    """Runs a layer once in either form, so that the kernels lie in the cache on disk."""
    torch.backends.cudnn.allow_tf32 = True
    _, batch, units = shape
    of = layer_of(name, units, units, DTYPES[dtype])
    x = torch.randn(2, batch, units, device="cuda", dtype=DTYPES[dtype], requires_grad=True)
    for form in FORMS:
        use_form(form)
        with elman.use_engine("gpu"):
            with torch.no_grad():
                of(x)
            of(x)[0].sum().backward()


def whole_steps() -> dict[str, float]:
    """Milliseconds of training steps of a language model, under autocast to bfloat16: 2 layers of 768 units."""

    class Model(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.embedding, self.layer, self.output = nn.Embedding(256, 256), layer, nn.Linear(768, 256)

        def forward(self, text: Tensor) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                scores = self.output(self.layer(self.embedding(text[:-1]))[0])
            return nn.functional.cross_entropy(scores.flatten(0, 1).float(), text[1:].flatten())

    found = {}
    text = torch.randint(256, (257, 64), device="cuda")
    layers = {
        "torch.nn.LSTM": nn.LSTM(256, 768, 2),
        "elman.LSTM": elman.LSTM(256, 768, 2),
        "elman.PeepholeLSTM": elman.PeepholeLSTM(256, 768, 2),
        "elman.GRU": elman.GRU(256, 768, 2),
        "torch.nn.GRU": nn.GRU(256, 768, 2),
    }
    for name, layer in layers.items():
        model = Model(layer).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)

        def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            loss = model(text)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        (found[name],) = milliseconds(step)
    return found


# Two layers of 768 units; validated often enough that the later half of the rows has no compilation in it.
LM = ["--precision", "bf16", "--hidden-size", "768", "--num-layers", "2", "--batch-size", "64", "--window", "256"]
LM += ["--minutes", "0.5", "--evaluations", "10"]
TRAIN = """
import sys, elman
from elman.cli import main
with elman.use_engine(sys.argv.pop(1)):
    main()
"""


def characters_a_second(cell: str, engine: str, options: list[str]) -> float:
    """Returns how many characters `elman train lm` learns from in a second of the later half of its time."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-c",
            TRAIN,
            engine,
            "train",
            "lm",
            "--run",
            f"{folder}/run",
            "--cell",
            cell,
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-300:])
        with open(f"{folder}/run/metrics.csv", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        given = json.loads(Path(f"{folder}/run/config.json").read_text())["options"]
    half, last = rows[len(rows) // 2], rows[-1]
    steps, seconds = (float(last[name]) - float(half[name]) for name in ("step", "seconds"))
    return steps * given["batch_size"] * given["window"] / seconds


def language_models() -> dict[str, float]:
    found = {}
    for name, cell, engine in (
        ("torch.nn's LSTM", "lstm", "native"),
        ("our LSTM", "lstm", "gpu"),
        ("our peephole LSTM", "peephole_lstm", "gpu"),
    ):
        found[name] = characters_a_second(cell, engine, LM)
    return found


TILED, TILED_CELLS = [*SHAPES, (1024, 16, 64), (1024, 16, 32)], ("lstm", "gru_before")


def tiles_of(dtype: str, shape: tuple[int, int, int], of: Recurrent) -> list[resident.Tile]:
    """Returns every tile that may be resident, however much it puts aside."""
    _, batch, units = shape
    device = torch.device("cuda", 0)
    found = []
    for tf32 in (True, False) if dtype == "fp32" else (False,):
        form = Form(of.cell, "backward", False, False, (False,), batch, units, 0, DTYPES[dtype], tf32, device, 0)
        found += [tile for tile in resident.candidates(form) if tile not in found]
    return found


def compile_tile(dtype: str, shape: tuple[int, int, int], name: str) -> None:
    of = layer_of(name, shape[2], shape[2], DTYPES[dtype])
    x = torch.randn(2, *shape[1:], device="cuda", dtype=DTYPES[dtype], requires_grad=True)
    resident.MOST_SPILLED = 10**9
    for tile in tiles_of(dtype, shape, of):
        use_form(tile)
        try:
            with elman.use_engine("gpu"):
                of(x)[0].sum().backward()
        except Exception as error:
            print(f"  {shape} {name} {tile} {error!r}"[:200], flush=True)


def tiles(dtype: str) -> None:
    """Prints the times of every tile that may be resident, forward and backward in a training step."""
    resident.MOST_SPILLED = 10**9
    for shape in TILED:
        for name in TILED_CELLS:
            of = layer_of(name, shape[2], shape[2], DTYPES[dtype])
            x = torch.randn(*shape, device="cuda").to(DTYPES[dtype])
            for tile in tiles_of(dtype, shape, of):
                use_form(tile)
                text = f"  {shape!s:18}{dtype:6}{name:12}{tile.units:3} units {tile.warps} warps {tile.rows} rows {tile.precision:7}{'registers' if tile.registers else 'shared':10}"
                try:
                    print(f"{text} {milliseconds(both_ways(of, x, 'gpu')[1], turns=5)[0]:.3f}", flush=True)
                except Exception as error:
                    print(f"{text} {error!r}"[:200], flush=True)
    use_form("auto")


def tiny() -> None:
    """Cells of every kind in either form, alone and with others to meet, at sizes that compute-sanitizer can follow."""
    torch.backends.cudnn.allow_tf32 = True
    for form, units in (("auto", 72), ("auto", 17), ("steps", 17)):
        use_form(form)
        for name in ("peephole_lstm", "gru_before", "three_phases", "projected_lstm"):
            of = layer_of(name, 3, units, torch.float32, bidirectional=True)
            x = torch.randn(3, 2, 3, device="cuda", requires_grad=True)
            lengths = torch.tensor([3, 1], device="cuda")
            with elman.use_engine("gpu"):
                for options in ({}, {"lengths": lengths}):
                    of(x, **options)[0].square().sum().backward()
    torch.cuda.synchronize()
    print("tiny: done")


def sanitizers() -> dict[str, subprocess.Popen[str]]:
    """Starts compute-sanitizer with each of its tools."""
    return {
        tool: subprocess.Popen(
            ["compute-sanitizer", "--tool", tool, "--print-limit", "5", sys.executable, __file__, "--only", "tiny"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for tool in ("memcheck", "racecheck", "synccheck")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="accuracy,again,other,first,lm,times,steps,sanitizer")
    parser.add_argument("--dtypes", default="fp32,bf16,fp16")
    parser.add_argument("--forms", default=",".join(FORMS), help="forms of the time loop whose accuracy is judged")
    parser.add_argument("--cells", default="lstm,gru,rnn,peephole_lstm,coupled_lstm,gru_before,users_cell")
    parser.add_argument("--workers", type=int, default=14, help="processes that compile kernels")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    only, keys, names = (text.split(",") for text in (given.only, given.dtypes, given.cells))
    if not torch.cuda.is_available():
        sys.exit("not measured: there is no NVIDIA GPU here; run `python bench/gpu.py` where there is one")
    if "tiny" in only:
        tiny()
        return
    began = time.perf_counter()
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(f"{found['device']}, torch {found['torch']}, elman {elman.__version__}", flush=True)
    wrong: dict[str, set[str]] = {dtype: set() for dtype in DTYPES}

    def save() -> None:
        if given.output is not None:
            given.output.write_text(json.dumps(found, indent=1, default=str))

    checking = sanitizers() if "sanitizer" in only else {}
    if "accuracy" in only:
        print("accuracy: error / allowed")
    with ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn")) as pool:
        compiling, judged = [], []
        if "accuracy" in only:
            judged = [pool.submit(judge, case) for case in judged_cases(keys, given.forms.split(","))]
        if "times" in only:
            compiling = [pool.submit(compile_for, name, key, s) for key in keys for s in SHAPES for name in names]
        if "tiles" in only:
            compiling += [pool.submit(compile_tile, key, s, n) for key in keys for s in TILED for n in TILED_CELLS]
        for done in as_completed(judged):
            row = done.result()
            case = Case(*(row[field] for field in Case._fields))
            print(f"  {case} {row['worst']:8.3f}  {row['at']}", flush=True)
            found.setdefault("accuracy", []).append(row)
            if not row["worst"] <= 1:
                wrong[case.dtype].add(case.cell)
        for done in compiling:
            if done.exception() is not None:
                print(f"  not compiled: {done.exception()!r}"[:300], flush=True)
    save()
    others = {"compiled": compiled, "exported": exported, "distributed": distributed, "in one piece": in_one_piece}
    checks: dict[str, Callable[[], Any]] = {}
    if "again" in only:
        checks |= {f"again, {key}, {form}": lambda k=key, f=form: again(DTYPES[k], f) for key in keys for form in FORMS}
    checks |= others if "other" in only else {}
    checks |= {"first": first} if "first" in only else {}
    checks |= {"lm": language_models} if "lm" in only else {}
    for what, run in checks.items():
        try:
            found[what] = run()
        except Exception as error:
            traceback.print_exc()
            found[what] = repr(error)
        print(f"{what}: {found[what]}", flush=True)
    for tool, process in checking.items():
        try:
            said = process.communicate(timeout=240)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            said = f"not finished; {process.communicate()[0]}"
        found[f"compute-sanitizer {tool}"] = said.strip().splitlines()[-12:]
        print(f"compute-sanitizer {tool}: {found[f'compute-sanitizer {tool}']}"[:3000], flush=True)
    save()
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)
    if "tiles" in only:
        for key in keys:
            tiles(key)
    if "steps" in only:
        found["steps"] = whole_steps()
        print("steps:", ", ".join(f"{name} {value:.2f}" for name, value in found["steps"].items()), flush=True)
    if "times" in only:
        print("times: milliseconds forward, forward and backward; first: seconds of the first call")
        for key in keys:
            found.setdefault("times", []).extend(times(names, DTYPES[key], key == "bf16", wrong[key]))
            save()
    save()
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
