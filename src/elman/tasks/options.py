"""The options of each task. Like elman/training/options.py, this file does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from elman.errors import InputError
from elman.training.options import Options, option

if TYPE_CHECKING:
    from elman.cell import Cell

NO_FILE = "says how to read FILE, and FILE is left out; give one, or leave the option out"
CELLS = ("lstm", "gru", "coupled_lstm", "peephole_lstm")  # that `elman tune` chooses from


@dataclass(frozen=True)
class LanguageModelOptions(Options):
    """The options of `elman train lm`."""

    task: ClassVar[str] = "lm"

    unit: str = option(
        "characters",
        "What is predicted: characters, bytes, bpe or words.",
        choices=("characters", "bytes", "bpe", "words"),
    )
    vocabulary_size: int = option(1000, "Tokens of a vocabulary of bpe or words.", least=1)
    validation: str | None = option(None, "Text to judge by, in place of a part held out.")
    cell: str = option("lstm", "A cell of those that `elman cells` lists, except projected_lstm.", search=CELLS)
    hidden_size: int = option(256, "Units per layer.", least=1, search=(32, 512))
    embedding_size: int = option(64, "Width of a token's embedding.", least=1)
    num_layers: int = option(1, "Recurrent layers.", least=1, search=(1, 3))
    tied: bool = option(False, "Use the embedding's weights for the output, too, after a linear layer of its width.")
    dropout: float = option(
        0.25,
        "Share of activations dropped after and between layers while training; of bpe and words before them, too.",
        least=0,
        most=0.99,
        search=(0.0, 0.6),
    )
    forget_bias: float | None = option(
        None,
        "Bias of forget gates at first, such as 1 for a long memory and -1 for a short one; if left out, -1 for characters and "
        "bytes, else as torch.nn draws it.",
        least=-10.0,
        most=10.0,
    )
    batch_size: int = option(32, "Places in the text that are read side by side.", least=1)
    window: int = option(
        64, "Steps between updates, and how far back gradients reach; the state is carried on.", least=1
    )
    held_out: float = option(0.1, "Share of the text, from its end, kept for validation.", least=0.001, most=0.9)
    learning_rate: float = option(
        1e-2, "Highest learning rate, after warm-up; then half a cosine down to zero.", above=0, search=(1e-3, 3e-2)
    )
    weight_decay: float = option(0.1, "AdamW's weight decay.", least=0, most=1e6)

    def check(self) -> None:
        super().check()
        _check_cell(self.cell)
        if self.forget_bias is not None and "f" not in _check_cell(self.cell).gates:
            raise InputError(f"--forget-bias is for cells with a forget gate f, and {self.cell} has none; leave it out")
        if self.unit == "bpe" and self.vocabulary_size < 257:
            raise InputError(
                f"--vocabulary-size must be 257 or more (256 bytes and what is merged from them), got {self.vocabulary_size}"
            )

    def useless(self, file: Path | None) -> dict[str, str]:
        if self.unit in ("bpe", "words"):
            return {}
        return {"vocabulary_size": f"is for --unit bpe and words, and the unit is {self.unit}; leave it out"}


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
    cell: str = option("lstm", "A cell of those that `elman cells` lists, except projected_lstm.", search=CELLS)
    hidden_size: int = option(128, "Units per layer and direction.", least=1, search=(32, 512))
    num_layers: int = option(2, "Recurrent layers; all read in both directions.", least=1, search=(1, 3))
    word_size: int = option(100, "Width of a word's embedding.", least=1)
    character_size: int = option(32, "Width of a character's embedding.", least=1)
    spelling_size: int = option(64, "Units per direction that read the characters of a word.", least=1)
    min_count: int = option(2, "Words that are rarer have no embedding of their own.", least=1)
    word_dropout: float = option(
        0.25, "A word that occurs n times is hidden with probability d / (d + n) while training.", least=0, most=1e6
    )
    dropout: float = option(
        0.4,
        "Share of activations dropped around and between layers while training.",
        least=0,
        most=0.99,
        search=(0.0, 0.6),
    )
    batch_size: int = option(32, "Sentences between updates.", least=1)
    learning_rate: float = option(
        3e-3, "Highest learning rate, after warm-up; then half a cosine down to zero.", above=0, search=(5e-4, 2e-2)
    )

    def check(self) -> None:
        super().check()
        _check_cell(self.cell)


def _check_cell(name: str) -> Cell:
    """Returns the cell of that name. Raises InputError if there is none, or if the models here cannot use it."""
    from elman import cells

    cell = cells.by_name(name, projected=False)
    if cell.projected:
        raise InputError(f"cell {name!r} projects its output, which this model has no use for; choose lstm")
    return cell


@dataclass(frozen=True)
class ForecastingOptions(Options):
    """The options of `elman train forecast`."""

    task: ClassVar[str] = "forecast"

    columns: str | None = option(None, "Columns to forecast, with commas between them; all others if left out.")
    known: str | None = option(None, "Columns that are known in advance, with commas between them.")
    time: str | None = option(None, "Column of times: dates or numbers. They are checked for order and gaps.")
    group: str | None = option(None, "Column that tells the series of a table apart.")
    fill_gaps: bool = option(False, "Draw straight lines across gaps in the times.")
    skip_bad: bool = option(False, "Leave out rows that make no sense, and count them.")
    horizon: int = option(24, "Steps ahead that are forecast.", least=1)
    lookback: int = option(336, "Steps of the past that a forecast reads; a multiple of --segment.", least=1)
    segment: int = option(24, "Steps that the recurrent layer reads, and writes, at once.", least=1)
    strategy: str = option(
        "direct", "direct: all steps at once; recursive: segment after segment, from its own forecasts.",
        choices=("direct", "recursive"),
    )  # fmt: skip
    quantiles: str | None = option(None, "Quantiles to forecast, such as 0.1,0.5,0.9, in place of one value.")
    split: str = option(
        "0.7,0.1,0.2", "Parts to learn from, to judge by and to test on, in this order: shares, or numbers of rows."
    )
    period: int = option(24, "Steps of a season, for the baseline that repeats the last one, and for MASE.", least=1)
    loss: str = option(
        "mae", "What is minimised without --quantiles: mae, mse or huber.", choices=("mae", "mse", "huber")
    )
    cell: str = option("gru", "A cell of those that `elman cells` lists, except projected_lstm.", search=CELLS)
    hidden_size: int = option(128, "Units per layer.", least=2, search=(32, 512))
    num_layers: int = option(1, "Recurrent layers.", least=1, search=(1, 3))
    dropout: float = option(
        0.2, "Share of activations dropped before the output while training.", least=0, most=0.99, search=(0.0, 0.6)
    )
    batch_size: int = option(64, "Windows between updates.", least=1)
    learning_rate: float = option(
        3e-3, "Highest learning rate, after warm-up; then half a cosine down to zero.", above=0, search=(5e-4, 2e-2)
    )

    @property
    def ahead(self) -> int:
        """The steps that the network itself forecasts."""
        return self.horizon if self.strategy == "direct" else self.segment

    @property
    def column_list(self) -> tuple[str, ...]:
        return _names(self.columns)

    @property
    def known_list(self) -> tuple[str, ...]:
        return _names(self.known)

    @property
    def quantile_list(self) -> list[float]:
        return _numbers(self.quantiles or "")

    @property
    def split_list(self) -> list[float]:
        return _numbers(self.split)

    def check(self) -> None:
        super().check()
        _check_cell(self.cell)
        if self.lookback % self.segment:
            near = max(1, round(self.lookback / self.segment)) * self.segment
            raise InputError(f"--lookback {self.lookback} is no multiple of --segment {self.segment}; take {near}")
        if self.lookback < self.period:
            raise InputError(f"--period {self.period} is longer than --lookback {self.lookback}; make one of them fit")
        if self.fill_gaps and self.time is None:
            raise InputError("--fill-gaps fills gaps in the times, so say with --time which column has them")
        try:
            quantiles, split = self.quantile_list, self.split_list
        except ValueError as error:
            raise InputError(
                f"--quantiles and --split are finite numbers with commas between them; got {error}"
            ) from error
        if quantiles != sorted(set(quantiles)) or any(not 0 < q < 1 for q in quantiles):
            raise InputError(f"--quantiles must lie between 0 and 1 and rise, got {self.quantiles}; try 0.1,0.5,0.9")
        if quantiles and self.loss != "mae":
            raise InputError(f"--quantiles have a loss of their own, so --loss {self.loss} cannot be given with them")
        shares, rows = sum(split) <= 1 + 1e-9, all(part == int(part) for part in split)
        if len(split) != 3 or min(split) < 0 or not (shares or rows) or min(split[:2]) == 0:
            raise InputError(
                f"--split must be three shares of at most 1 in sum, or three numbers of rows, got {self.split}; try 0.7,0.1,0.2"
            )

    def useless(self, file: Path | None) -> dict[str, str]:
        found: dict[str, str] = (
            {} if file else dict.fromkeys(("columns", "known", "time", "group", "fill_gaps"), NO_FILE)
        )
        if self.quantiles:
            found["loss"] = "is what is minimised without --quantiles, which are given; leave it out"
        return found


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _numbers(text: str) -> list[float]:
    """Returns the numbers in a text with commas between them. Raises ValueError for one that is none, or not finite."""
    numbers = [float(word) for word in text.split(",")] if text else []
    if any(number != number or abs(number) == float("inf") for number in numbers):
        raise ValueError(repr(text))
    return numbers


@dataclass(frozen=True)
class ClassificationOptions(Options):
    """The options of `elman train classify`."""

    task: ClassVar[str] = "classify"

    validation: str | None = option(None, "File to judge by, in place of a part held out.")
    held_out: float = option(0.2, "Share of the sequences of each class kept for validation.", least=0.001, most=0.9)
    label: str = option("label", "Column, or name in JSON lines, of the label.")
    sequence: str | None = option(None, "Column that tells the sequences of a table apart, with a row for each step.")
    text: str | None = option(None, "Column, or name in JSON lines, of a text to classify, in place of numbers.")
    columns: str | None = option(None, "Columns of numbers to read, with commas between them; all others if left out.")
    unit: str = option("words", "What a text is read in: words or characters.", choices=("words", "characters"))
    skip_bad: bool = option(False, "Leave out sequences that make no sense, and count them.")
    balanced: bool = option(False, "Give every class the same weight in the loss, however rare it is.")
    best_by: str = option(
        "accuracy", "Which score decides what is kept: accuracy or macro_f1.", choices=("accuracy", "macro_f1")
    )
    cell: str = option("gru", "A cell of those that `elman cells` lists, except projected_lstm.", search=CELLS)
    hidden_size: int = option(64, "Units per layer and direction.", least=1, search=(32, 512))
    num_layers: int = option(1, "Recurrent layers; all read in both directions.", least=1, search=(1, 3))
    embedding_size: int = option(64, "Width of the embedding of a word or character.", least=1)
    dropout: float = option(
        0.5,
        "Share of activations dropped between layers and before the output while training.",
        least=0,
        most=0.99,
        search=(0.0, 0.6),
    )
    noise: float = option(
        0.3, "Deviation of noise added to numbers while training, in their own deviations.", least=0, most=10
    )
    smoothing: float = option(0.1, "Share of the target given to all classes alike.", least=0, most=0.99)
    batch_size: int = option(32, "Sequences between updates.", least=1)
    learning_rate: float = option(
        3e-3, "Highest learning rate, after warm-up; then half a cosine down to zero.", above=0, search=(5e-4, 2e-2)
    )

    @property
    def column_list(self) -> tuple[str, ...]:
        return _names(self.columns)

    def check(self) -> None:
        super().check()
        _check_cell(self.cell)
        if self.text is not None and (self.sequence is not None or self.columns is not None):
            raise InputError("--text reads a text in each row, so --sequence and --columns cannot be given with it")

    def useless(self, file: Path | None) -> dict[str, str]:
        from elman.datasets.tables import form

        files = [Path(path) for path in (file, self.validation) if path is not None]
        found: dict[str, str] = {} if files else dict.fromkeys(("label", "sequence", "text", "columns"), NO_FILE)
        if files and all(form(path) == ".ts" for path in files):
            found["label"] = f"names a column, and {files[0]} has its labels at the ends of its lines; leave it out"
        if self.text is None:
            found["unit"] = found["embedding_size"] = (
                "is for texts, and without --text the data are numbers; leave it out"
            )
        else:
            found["noise"] = "is for numbers, and --text reads texts; leave it out"
        return found
