"""What exported models cost in ONNX Runtime, in float32 and in integers, beside elman and torch.nn on one thread.

    python bench/onnx_speed.py            # about three minutes; needs the extra onnx
    python bench/onnx_speed.py RUN        # also the loss of a language model's run in integers

The first table is one step of a language model, for one token: microseconds, and two ratios:

    to torch    the time of the same model with torch.nn's layer, divided by ONNX Runtime's in float32
    to float32  ONNX Runtime's time in float32, divided by its time in integers

The second is a layer of a cell of one's own over 100 steps of one row, next to a loop of its equations in PyTorch, without
gradients, and to the engine that runs cells which have no kernels.
Every round runs everything that is compared, in a random order.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lengths import medians
from machine import processor

import elman
import elman.onnx
from elman.onnx import exporting, ports, runs
from elman.onnx.proof import session
from elman.tasks.language_model import LanguageModel
from elman.tasks.options import LanguageModelOptions

SIZE = 96  # tokens of the vocabulary
STEPS = 100  # in a round
WIDTHS = (256, 512, 1024)


def step(model: LanguageModel, folder: Path) -> dict[str, float]:
    """Returns the microseconds of one step in each way."""
    cell, width = model.recurrent.cell, model.recurrent.hidden_size
    names = [f"{name}_0" for name in cell.states]
    feed: dict[str, Any] = {"tokens": np.array([3])} | {name: np.zeros((1, 1, width), np.float32) for name in names}
    ways: dict[str, Callable[[], Any]] = {}
    for way, int8 in (("float32", False), ("int8", True)):
        path = exporting.write(ports.language_model_step(model), folder / f"{way}.onnx", int8).path
        ways[way] = many(session(path.read_bytes()).run, None, feed)
    token, state = torch.tensor([3]), ports.as_state([torch.zeros(1, 1, width) for _ in names])

    def own() -> Any:
        return model.logits(model.recurrent.step(model.embedding(token), state)[0])

    ways["elman"] = many(own)
    if cell.name in ("lstm", "gru"):
        theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell.name](model.recurrent.input_size, width)

        def torchs() -> Any:
            return model.logits(theirs(model.embedding(token)[None], state)[0])

        ways["torch.nn"] = many(torchs)
    return {way: 1e3 * time / STEPS for way, time in medians(ways).items()}


def many(call: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
    def run() -> None:
        for _ in range(STEPS):
            call(*arguments)

    return run


def minimal(x: Any, s: Any, R: Any) -> Any:
    """The minimal gated unit: f = sigmoid(x.f + R.f h), n = tanh(x.n + R.n (f * h)), h' = (1 - f) * h + f * n."""
    f = torch.sigmoid(x.f + R.f @ s.h)
    n = torch.tanh(x.n + R.n @ (f * s.h))
    return elman.State(h=(1 - f) * s.h + f * n)


def eager(layer: elman.Recurrent, x: torch.Tensor) -> torch.Tensor:
    """The same equations as a researcher writes them, a loop over time."""
    weights = layer.weights(0)
    assert weights.ih is not None
    assert weights.hh is not None
    R_f, R_n = weights.hh.chunk(2)
    b_f, b_n = weights.b_hh.chunk(2) if weights.b_hh is not None else (None, None)
    h, found = x.new_zeros(x.shape[1], layer.hidden_size), []
    for share in torch.nn.functional.linear(x, weights.ih, weights.b_ih):
        x_f, x_n = share.chunk(2, -1)
        f = torch.sigmoid(x_f + torch.nn.functional.linear(h, R_f, b_f))
        n = torch.tanh(x_n + torch.nn.functional.linear(f * h, R_n, b_n))
        h = (1 - f) * h + f * n
        found.append(h)
    return torch.stack(found)


def sequence(folder: Path) -> None:
    layer = elman.Recurrent(elman.Cell(minimal, gates=("f", "n"), name="minimal"), 128, 128)
    opened = session(elman.onnx.export(layer, folder / "own.onnx").path.read_bytes())
    x = torch.randn(100, 1, 128)
    torch.testing.assert_close(eager(layer, x), layer(x)[0], rtol=1e-4, atol=1e-4)

    def reference() -> None:
        with elman.use_engine("reference"):
            layer(x)

    ways = {
        "ONNX Runtime": lambda: opened.run(["y"], {"x": x.numpy()}),
        "elman": lambda: layer(x),
        "the loop": lambda: eager(layer, x),
        "the engine reference": reference,
    }
    times = medians(ways)
    print("\na cell of one's own, (T, B, H) = (100, 1, 128): milliseconds, and how many times ONNX Runtime's")
    for way, time in times.items():
        print(f"  {way:<22}{time:8.3f}{time / times['ONNX Runtime']:8.2f}")


def main() -> None:
    torch.set_num_threads(1)
    print(processor())
    print(f"{'':<22}{'elman':>9}{'torch.nn':>10}{'float32':>9}{'int8':>8}{'to torch':>10}{'to float32':>12}")
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        for cell in ("lstm", "gru", "peephole_lstm", "coupled_lstm", "gru_before"):
            for width in WIDTHS:
                torch.manual_seed(0)
                options = LanguageModelOptions(cell=cell, hidden_size=width, epochs=1.0)
                model = LanguageModel(SIZE, options).eval()
                times = step(model, folder)
                theirs = times.get("torch.nn", float("nan"))
                print(
                    f"{cell:<14} H = {width:<4}{times['elman']:9.1f}{theirs:10.1f}{times['float32']:9.1f}{times['int8']:8.1f}"
                    f"{theirs / times['float32']:10.2f}{times['float32'] / times['int8']:12.2f}",
                    flush=True,
                )
        sequence(folder)
    for run in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as name:
            path = runs.export_run(run, Path(name) / "model.onnx", int8=True).path
            of, before, after = runs.losses(run, path)
            print(f"\n{run}: {after:.4f} {of} in integers, {before:.4f} before: {after - before:+.4f}")


if __name__ == "__main__":
    main()
