"""Whole training steps, next to the same model with torch.nn's layers, and what the training loop itself costs.

    python bench/training.py               # about three minutes; --threads 2 for more threads

A step is everything: the batch, the embedding, the layers, the output, the loss, the gradients, clipping and AdamW. The twin is
the same model on the same batches, written plainly: torch.nn's layers in the place of elman's, torch.nn.Dropout, and AdamW
without `fused`. Where sequences have unequal lengths it packs them, as torch.nn asks for. Rounds alternate, in a random
order; ratios are medians of rounds.

    torch.nn    the time of the twin divided by elman's
    loop        the time of `Training.steps` beyond that of the bare step, in per cent of it
    by steps    of a translator: the time of a twin whose decoder goes from symbol to symbol, as tutorials have it
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from elman.datasets.reading import BadRows
from elman.tasks import language_model, tagging, translation
from elman.training import begin
from elman.training.dropout import Dropout
from elman.training.loop import optimizer_of

TORCH = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
ROUNDS, STEPS = 9, 6


class Packing(nn.Module):
    """A layer of torch.nn that takes lengths."""

    def __init__(self, layer: nn.RNNBase):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, state: Any = None, *, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        if lengths is None:
            return self.layer(x, state)
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, state = self.layer(packed, state)
        return pad_packed_sequence(output, total_length=len(x))[0], state


def by_steps(model: Any) -> None:
    """Lets the decoder of a translator go from symbol to symbol."""
    whole = model.decode

    def decode(before: Tensor, memory: Any, state: Any = None) -> tuple[Tensor, Any, Tensor]:
        if len(before) == 1:
            return whole(before, memory, state)
        logits, looks = [], []
        for symbol in before:
            step, state, look = whole(symbol[None], memory, state)
            logits.append(step)
            looks.append(look)
        return torch.cat(logits), state, torch.cat(looks, 1)

    model.decode = decode


def with_torch(model: nn.Module, cell: str) -> nn.Module:
    """Puts torch.nn's layers in the place of elman's, with the same weights."""
    for name, layer in list(model.named_children()):
        if isinstance(layer, Dropout):
            setattr(model, name, nn.Dropout(layer.p))
        if hasattr(layer, "cell"):
            twin = TORCH[cell](
                layer.input_size,
                layer.hidden_size,
                layer.num_layers,
                dropout=layer.dropout,
                bidirectional=layer.bidirectional,
            )
            twin.load_state_dict(layer.state_dict())
            setattr(model, name, Packing(twin))
    return model


def bare(task: Any, plain: bool = False) -> Iterator[None]:
    """Training steps with nothing around them. plain: with the optimizer that torch takes on its own."""
    optimizer, parameters = optimizer_of(task), list(task.model.parameters())
    if plain:
        optimizer = torch.optim.AdamW(parameters, lr=optimizer.defaults["lr"], betas=optimizer.defaults["betas"])
    task.model.train()
    for epoch in range(1_000_000):
        for batch in task.batches(epoch, 0):
            loss = batch.loss()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, task.options.clip)
            optimizer.step()
            optimizer.zero_grad()
            float(loss.detach())
            yield


def seconds(steps: Iterator[Any]) -> float:
    began = time.perf_counter()
    for _ in range(STEPS):
        next(steps)
    return time.perf_counter() - began


def compared(make: Callable[[], Any], cell: str, directory: Path) -> tuple[float, float, float, float | None]:
    """Returns milliseconds of a step, the twin's time over it, the share that the loop adds, and the time of a twin whose
    decoder goes by steps over elman's, if there is a decoder."""
    twin = make()
    with_torch(twin.model, cell)
    training, _ = begin(make(), directory)
    runs = {"elman": bare(make()), "torch": bare(twin, plain=True), "loop": training.steps()}
    if hasattr(twin.model, "decode"):
        stepping = make()
        by_steps(with_torch(stepping.model, cell))
        runs["steps"] = bare(stepping, plain=True)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 2):
        for name in random.sample(list(runs), len(runs)):
            spent = seconds(runs[name])
            if number >= 2:
                times[name].append(spent)

    def ratio(of: str) -> float:
        return statistics.median(a / b for a, b in zip(times[of], times["elman"], strict=True))

    slow = ratio("steps") if "steps" in runs else None
    return 1000 * statistics.median(times["elman"]) / STEPS, ratio("torch"), ratio("loop") - 1, slow


def language(cell: str, threads: int) -> Any:
    options = language_model.Options(cell=cell, threads=threads, epochs=1000.0, evaluations=1)
    return language_model.begin(None, options, "cpu", BadRows())


def tagger(cell: str, threads: int) -> Any:
    options = tagging.Options(cell=cell, threads=threads, epochs=1000.0, evaluations=1)
    return tagging.begin(None, options, "cpu", BadRows())


def translator(cell: str, threads: int) -> Any:
    options = translation.Options(cell=cell, threads=threads, epochs=1000.0, evaluations=1)
    return translation.begin(None, options, "cpu", BadRows())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="a model")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    random.seed(0)
    print(
        f"threads: {given.threads}\n\n| model | cell | ms a step | torch.nn | loop | by steps |\n|---|---|---|---|---|---|"
    )
    for name, make in (("language model", language), ("tagger", tagger), ("translator", translator)):
        for cell in TORCH if given.only in (None, name) else ():
            with tempfile.TemporaryDirectory() as directory:
                step, ratio, loop, slow = compared(
                    lambda m=make, c=cell: m(c, given.threads), cell, Path(directory) / "run"
                )
            print(
                f"| {name} | {cell} | {step:.1f} | {ratio:.2f} | {100 * loop:+.1f} % | {'' if slow is None else f'{slow:.2f}'} |",
                flush=True,
            )
