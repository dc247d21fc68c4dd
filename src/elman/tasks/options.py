"""The options of each task. Like elman/training/options.py, this file does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from elman.errors import InputError
from elman.training.options import Options, option


@dataclass(frozen=True)
class LanguageModelOptions(Options):
    """The options of `elman train lm`."""

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
        from elman import cells

        super().check()
        if cells.by_name(self.cell).projected:
            raise InputError(f"cell {self.cell!r} projects its output, which this model has no use for; choose lstm")
        if self.unit == "bpe" and self.vocabulary_size < 257:
            raise InputError(
                f"--vocabulary-size must be 257 or more (256 bytes and what is merged from them), got {self.vocabulary_size}"
            )
