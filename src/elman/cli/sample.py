"""`elman sample`: let a language model write."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import typer

from elman.cli.common import opened
from elman.errors import InputError

EXAMPLE = 'Example:  elman sample runs/first --prompt "The " --length 500 --temperature 0.8'


def sample(
    run: Path = typer.Argument(..., help="Directory of a run, or the file that `elman export` made of it."),
    prompt: str = typer.Option("", help="Text to continue."),
    length: int = typer.Option(500, help="Tokens to write."),
    temperature: float = typer.Option(0.8, help="Above 1 bolder, below 1 safer, 0 always the likeliest."),
    top_p: float = typer.Option(1.0, help="Draw from the likeliest tokens whose probability reaches this."),
    seed: int | None = typer.Option(None, help="Same seed, same text; drawn and told if left out.", show_default=False),
    device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
) -> None:
    """Write text with a language model.

    The text comes as it is drawn, one step per token, with the state carried.
    """
    if length < 1:
        raise InputError(f"--length must be 1 or more, got {length}")
    if not 0 <= temperature < float("inf"):
        finite = "" if temperature < 0 else " and finite"
        raise InputError(f"--temperature must be 0 or more{finite}, got {temperature}")
    if not 0 < top_p <= 1:
        raise InputError(f"--top-p must be greater than 0 and at most 1, got {top_p}")
    if temperature == 0 and top_p < 1:
        raise InputError(
            f"--temperature 0 always takes the likeliest token, so --top-p {top_p} has no effect; leave one out"
        )

    import torch

    from elman.tasks import language_model

    model, vocabulary, _ = language_model.load(*opened(run, device_name))
    if seed is None:
        seed = secrets.randbelow(1 << 31)
        print(f"--seed {seed}", file=sys.stderr)
    elif not 0 <= seed < 2**63:
        raise InputError(f"--seed must be 0 or more and below 2**63, got {seed}")
    generator = torch.Generator().manual_seed(seed)
    for text in language_model.sample(model, vocabulary, prompt, length, temperature, top_p, generator):
        print(text, end="", flush=True)
    print()
