"""The engine `gpu` on an NVIDIA GPU: as accurate as torch, and how fast. Under ten minutes.

    python bench/gpu.py                        # everything
    python bench/gpu.py --only accuracy,times --dtypes bf16
    python bench/gpu.py --only tiny            # what compute-sanitizer looks at

accuracy   every cell and type by the rule of tests/accuracy.py. torch's side is torch.nn where it has the cell, else
           the engine `reference`, in the same type and with the same switch for TF32. Also: equal to the bit when run
           again, on two streams at once, and inside a CUDA graph of the user's; under torch.compile.
times      milliseconds, forward alone and with backward, medians. torch: torch.nn; auto: what elman chooses; gpu: this
           engine; loop: the engine `reference`. A cell whose results are not accurate has no times.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, sigmoid, tanh

import elman
from elman import Cell, Recurrent, State, cells
from elman.cell import cell as make_cell
from elman.gpu import choice, resident

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
SHAPES = [(1024, 16, 768), (1024, 1, 256), (100, 64, 512), (35, 20, 650)]  # T, B, H
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


CELLS: dict[str, Cell] = {**cells.BUILT_IN, "users_cell": users_cell, "three_phases": three_phases}


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


def rms(t: Tensor) -> float:
    return t.double().square().mean().sqrt().item()


def everything(
    of: Any, engine: str, x: Tensor, state: Any, seed: int, lengths: Tensor | None = None
) -> dict[str, Tensor]:
    """Results and all gradients, for random cotangents on the output and on every final state."""
    leaves = [x, *state]
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    hx = leaves[1] if len(leaves) == 2 else tuple(leaves[1:])
    options = {} if lengths is None else {"lengths": lengths}
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
    names = ["d_x", *(f"d_state{k}" for k in range(len(state))), *(f"d_{name}" for name in parameters)]
    found = {"output": output} | {f"final{k}": r for k, r in enumerate(results[1:])} | dict(zip(names, d, strict=True))
    return {name: t.detach() for name, t in found.items()}


def accuracy(
    name: str, dtype: torch.dtype, tf32: bool, *, coded: bool = False, steps: int = 40, batch: int = 9, units: int = 72
) -> float:
    """Returns the largest error / allowed error of all results and gradients."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.manual_seed(len(name))
    of = layer_of(name, 24, units, dtype, bidirectional=True)
    with torch.no_grad():
        for p in of.parameters():
            p.normal_(0, p.shape[1] ** -0.5 if p.dim() == 2 and p.shape[0] > 3 else 0.7)
    x = torch.randn(steps, batch, 24, device="cuda").to(dtype)
    widths = of.cell.widths(of.hidden_size, of.proj_size)
    state = [torch.randn(2, batch, width, device="cuda").to(dtype) for width in widths]
    lengths = torch.randint(0, steps + 1, (batch,)).cuda() if coded else None
    mine = everything(of, "gpu", x, state, 1, lengths)
    peer = None if coded else peer_of(name, of)
    torchs = everything(of if peer is None else peer, "reference", x, state, 1, None if peer is not None else lengths)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    double = layer_of(name, 24, units, torch.float64, bidirectional=True)
    double.load_state_dict(of.state_dict())
    exact = everything(double, "reference", x.double(), [s.double() for s in state], 1, lengths)
    worst, at = 0.0, ""
    for key, value in exact.items():
        error, allowed = rms(mine[key] - value), 2 * rms(torchs[key] - value) + 1e-7 * rms(value)
        if dtype == torch.float64:
            allowed = 1e-13 * rms(value)
        ratio = error / allowed if error == error else math.inf
        if ratio > worst:
            worst, at = ratio, key
    print(
        f"  {name:24}{'coded ' if coded else ''}{str(dtype)[6:]:10}{'tf32' if tf32 else '':6}{worst:8.3f}  {at}",
        flush=True,
    )
    return worst


def again(dtype: torch.dtype) -> dict[str, bool]:
    """Whether results are equal to the bit: run again, on two streams at once, and in a CUDA graph of the user's."""
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
    of = layer_of("peephole_lstm", 24, 72, torch.float32)
    x = torch.randn(20, 9, 24, device="cuda")
    with torch.no_grad():
        return torch.equal(torch.compile(of, fullgraph=True)(x)[0], of(x)[0])


# Times.


def milliseconds(run: Callable[[], Any], most: float = 1.5) -> float:
    """The median of runs, by the GPU's own clock, for at most so many seconds."""
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    times, begin = [], time.perf_counter()
    while len(times) < 20 and (len(times) < 3 or time.perf_counter() - begin < most):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def timed(of: Any, x: Tensor, engine: str, most: float = 1.5) -> tuple[float, float]:
    """Returns the milliseconds of a forward pass, and of one forward and one backward."""
    own = x.detach().clone().requires_grad_()
    parameters = [own, *of.parameters()]

    def infer() -> None:
        with torch.no_grad():
            of(x)

    def train() -> None:
        output = of(own)[0]
        torch.autograd.grad(output, parameters, torch.ones_like(output))

    with elman.use_engine(engine):
        return milliseconds(infer, most), milliseconds(train, most)


def times(names: list[str], dtype: torch.dtype, loops: bool, wrong: set[str]) -> list[dict[str, Any]]:
    rows = []
    torch.backends.cudnn.allow_tf32 = True
    for steps, batch, units in SHAPES:
        for name in names:
            row: dict[str, Any] = {"shape": (steps, batch, units), "cell": name, "dtype": str(dtype)[6:]}
            if name in wrong:
                print(f"  {name}: not accurate, so not timed")
                continue
            torch.manual_seed(0)
            of = layer_of(name, units, units, dtype)
            x = torch.randn(steps, batch, units, device="cuda").to(dtype)
            try:
                peer = peer_of(name, of)
                if peer is not None:
                    row["torch"] = timed(peer, x, "auto")
                    row["auto"] = timed(of, x, "auto")
                begin = time.perf_counter()
                with elman.use_engine("gpu"), torch.no_grad():
                    of(x)
                torch.cuda.synchronize()
                row["first"] = time.perf_counter() - begin
                row["gpu"] = timed(of, x, "gpu")
                use_form("steps")
                row["steps"] = timed(of, x, "gpu")
                use_form("auto")
                if loops and name == "peephole_lstm":
                    row["loop"] = timed(of, x, "reference", 0.5)
            except Exception as error:
                traceback.print_exc()
                row["error"] = repr(error)
            rows.append(row)
            text = "  ".join(
                f"{key} {value[0]:.3f} {value[1]:.3f}" if isinstance(value, tuple) else f"{key} {value:.2f}"
                for key, value in row.items()
                if key in ("torch", "auto", "gpu", "steps", "loop", "first")
            )
            print(f"  {(steps, batch, units)!s:18}{row['dtype']:10}{name:16}{text}", flush=True)
    return rows


def tiles(dtype: torch.dtype) -> None:
    """Prints the times of every tile that can be resident, spilled bytes included."""
    for steps, batch, units in SHAPES:
        for name in ("lstm", "gru_before"):
            of = layer_of(name, units, units, dtype)
            x = torch.randn(steps, batch, units, device="cuda").to(dtype)
            for tile in resident.TILES:
                rows, columns = -(-batch // tile.rows), -(-units // tile.units)
                if rows * columns > torch.cuda.get_device_properties(0).multi_processor_count:
                    continue
                use_form(tile)
                resident.MOST_SPILLED = 10**9
                try:
                    infer, train = timed(of, x, "gpu", 0.3)
                    print(
                        f"  {(steps, batch, units)!s:18}{str(dtype)[6:]:10}{name:12}{tile} {rows * columns:4} {infer:.3f} {train:.3f}",
                        flush=True,
                    )
                except Exception as error:
                    print(f"  {(steps, batch, units)} {name} {tile} {error!r}"[:200], flush=True)
    use_form("auto")


def tiny() -> None:
    """Every cell once, at a size that compute-sanitizer can follow."""
    for name in CELLS:
        of = layer_of(name, 3, 5, torch.float32, bidirectional=True)
        x = torch.randn(3, 2, 3, device="cuda", requires_grad=True)
        lengths = torch.tensor([3, 1], device="cuda")
        with elman.use_engine("gpu"):
            for options in ({}, {"lengths": lengths}):
                of(x, **options)[0].square().sum().backward()
    torch.cuda.synchronize()
    print("tiny: done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="accuracy,again,compiled,times,sanitizer")
    parser.add_argument("--dtypes", default="fp32,bf16,fp16")
    parser.add_argument("--cells", default="lstm,gru,rnn,peephole_lstm,coupled_lstm,gru_before,users_cell")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    only = given.only.split(",")
    if not torch.cuda.is_available():
        sys.exit("not measured: there is no NVIDIA GPU here; run `python bench/gpu.py` where there is one")
    if "tiny" in only:
        tiny()
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, elman {elman.__version__}", flush=True)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    wrong: dict[str, set[str]] = {dtype: set() for dtype in DTYPES}
    if "accuracy" in only:
        print("accuracy: error / allowed")
        for key in [*given.dtypes.split(","), "fp64"]:
            for name in CELLS:
                for coded, tf32 in ((False, False), (True, False), *([(False, True)] if key == "fp32" else [])):
                    for form in ("steps", "auto"):
                        use_form(form)
                        try:
                            worst = accuracy(name, DTYPES[key], tf32, coded=coded)
                        except Exception:
                            traceback.print_exc()
                            worst = math.inf
                        found.setdefault("accuracy", []).append((key, name, coded, tf32, form, worst))
                        if worst > 1:
                            wrong[key].add(name)
    for what, run in (
        ("again", lambda: {d: again(DTYPES[d]) for d in given.dtypes.split(",")}),
        ("compiled", compiled),
    ):
        if what in only:
            try:
                found[what] = run()
                print(f"{what}: {found[what]}", flush=True)
            except Exception:
                traceback.print_exc()
    if "tiles" in only:
        for key in given.dtypes.split(","):
            tiles(DTYPES[key])
    if "times" in only:
        print("times: milliseconds forward, forward and backward; first: seconds of the first call")
        for key in given.dtypes.split(","):
            found.setdefault("times", []).extend(times(given.cells.split(","), DTYPES[key], key == "bf16", wrong[key]))
    if "sanitizer" in only:
        for tool in ("memcheck", "racecheck"):
            command = ["compute-sanitizer", "--tool", tool, sys.executable, __file__, "--only", "tiny"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(
                f"compute-sanitizer {tool}: {done.stdout.strip().splitlines()[-1:] or done.stderr[-500:]}", flush=True
            )
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1, default=str))


if __name__ == "__main__":
    main()
