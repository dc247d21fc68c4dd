"""The options of each task. Like elman/training/options.py, this file does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elman.errors import InputError
from elman.training.options import Options, option


@dataclass(frozen=True)
class LanguageModelOptions(Options):
    """The options of `elman train lm`."""

    task: ClassVar[str] = "lm"

    unit: str = option(
        "characters", "What is predicted: characters, bytes or bpe.", choices=("characters", "bytes", "bpe")
    )
    vocabulary_size: int = option(1000, "Tokens of a bpe vocabulary.")
    cell: str = option("lstm", "A cell, as `elman cells` lists them.")
    hidden_size: int = option(256, "Units per layer.", least=1)
    embedding_size: int = option(64, "Width of a token's embedding.", least=1)
    num_layers: int = option(1, "Recurrent layers.", least=1)
    dropout: float = option(
        0.1, "Share of activations dropped around and between layers while training.", least=0, most=0.99
    )
    batch_size: int = option(16, "Places in the text that are read side by side.", least=1)
    window: int = option(
        64, "Steps between updates, and how far back gradients reach; the state is carried on.", least=1
    )
    held_out: float = option(0.1, "Share of the text, from its end, kept for validation.", least=0.001, most=0.9)
    learning_rate: float = option(
        4e-3, "Highest learning rate, after warm-up; then half a cosine down to zero.", above=0
    )

    def check(self) -> None:
        super().check()
        _check_cell(self.cell)
        if self.unit == "bpe" and self.vocabulary_size < 257:
            raise InputError(
                f"--vocabulary-size must be 257 or more (256 bytes and what is merged from them), got {self.vocabulary_size}"
            )


@dataclass(frozen=True)
class TaggingOptions(Options):
    """The options of `elman train tag`."""

    task: ClassVar[str] = "tag"

    validation: str | None = option(None, "File to judge by, in place of a part held out.")
    held_out: float = option(
        0.1, "Share of the sentences, drawn at random, kept for validation.", least=0.001, most=0.9
    )
    tag: str = option("upos", "Column of a CoNLL-U file: upos, xpos or deprel.", choices=("upos", "xpos", "deprel"))
    skip_bad: bool = option(False, "Leave out sentences that make no sense, and count them.")
    cell: str = option("lstm", "A cell, as `elman cells` lists them.")
    hidden_size: int = option(200, "Units per layer and direction.", least=1)
    num_layers: int = option(2, "Recurrent layers; all read in both directions.", least=1)
    word_size: int = option(100, "Width of a word's embedding.", least=1)
    character_size: int = option(32, "Width of a character's embedding.", least=1)
    spelling_size: int = option(64, "Units per direction that read the characters of a word.", least=1)
    min_count: int = option(2, "Words that are rarer have no embedding of their own.", least=1)
    word_dropout: float = option(
        0.25, "A word that occurs n times is hidden with probability d / (d + n) while training.", least=0, most=1e6
    )
    dropout: float = option(
        0.4, "Share of activations dropped around and between layers while training.", least=0, most=0.99
    )
    batch_size: int = option(32, "Sentences between updates.", least=1)
    learning_rate: float = option(
        3e-3, "Highest learning rate, after warm-up; then half a cosine down to zero.", above=0
    )

    def check(self) -> None:
        super().check()
        _check_cell(self.cell)


def _check_cell(name: str) -> None:
    from elman import cells

    if cells.by_name(name).projected:
        raise InputError(f"cell {name!r} projects its output, which this model has no use for; choose lstm")
