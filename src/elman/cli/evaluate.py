"""`elman evaluate`: how well a language model predicts a text."""

from __future__ import annotations

from pathlib import Path

import typer

from elman.cli.common import PER, device
from elman.errors import InputError

EXAMPLE = "Example:  elman evaluate runs/first chapter.txt"


def evaluate(
    run: Path = typer.Argument(..., help="Directory of a run."),
    file: Path = typer.Argument(..., help="UTF-8 text, may be gzipped."),
    device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
) -> None:
    """Judge a language model on any text.

    Every token is predicted from all before it, with the state carried.
    """
    from elman.datasets.text import read
    from elman.tasks import language_model

    model, vocabulary, _ = language_model.load_language_model(run, device(device_name))
    corpus = read(file, vocabulary.unit, held_out=1.0, vocabulary=vocabulary)
    tokens = corpus.validation
    if len(tokens) < 2:
        raise InputError(f"{file} has {len(tokens)} token; at least 2 are needed, one to read and one to predict")
    score = language_model.evaluate(model, tokens, corpus.validation_characters)
    per = PER[vocabulary.unit]
    print(f"{per + 's':<20} {len(tokens)}")
    if vocabulary.unknown is not None:
        print(f"{'unknown':<20} {int((tokens == vocabulary.unknown).sum())}")
    print(f"{'nats per ' + per:<20} {score.nats:.4f}")
    print(f"{'bits per character':<20} {score.bits_per_character:.4f}")
    print(f"{'perplexity':<20} {score.perplexity:.4f}")
