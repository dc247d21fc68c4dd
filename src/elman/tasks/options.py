"""The options of each task. Like elman/training/options.py, this file does not import torch."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from io import StringIO
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from elman.errors import InputError
from elman.hearing import FIFTH, most_bands, step_of
from elman.training.options import Options, learning_rate_option, option

if TYPE_CHECKING:
    from elman.cell import Cell

NO_FILE = "says how to read FILE, but no FILE is given; give one, or leave the option out"
NO_NUMBERS = "is for numbers, but --text reads texts; leave it out"
MOST_SAMPLES = 2048  # of a step of audio
TEXT = "text"  # the column of texts that a model of the built-in ones reads
AUDIO = "audio"  # the column of files that a model of a folder of them hears
CELLS = ("lstm", "gru", "coupled_lstm", "peephole_lstm")  # that `elman tune` chooses from


def cell_option(default: str) -> Any:
    return option(
        default,
        "Cell to use, one of those that `elman cells` lists, except projected_lstm.",
        search=CELLS,
        of_model=True,
    )


def causal_option(help: str) -> Any:
    return option(False, help, of_model=True, later=True)


def dropout_option(default: float, where: str, also: str = "") -> Any:
    help = f"Share of activations dropped {where} in training{also}."
    return option(default, help, least=0, most=0.99, search=(0.0, 0.6))


def weight_dropout_option() -> Any:
    help = "Share of the recurrent weights dropped in training, against overfitting."
    return option(0.0, help, least=0, most=0.99, later=True)


def elsewhere_option() -> Any:
    return option(
        None,
        "With --each-step, the label of all moments of recordings in which there is no event; nothing is learned of them without it.",
        later=True,
    )


def quantiles_option() -> Any:
    help = "Quantiles to predict, such as 0.1,0.5,0.9, instead of a single value."
    return option(None, help, of_model=True)


def loss_option(default: str) -> Any:
    help = "Loss to minimise without --quantiles: mae, mse or huber."
    return option(default, help, choices=("mae", "mse", "huber"))


@dataclass(frozen=True)
class LanguageModelOptions(Options):
    """The options of `elman train lm`."""

    task: ClassVar[str] = "lm"

    unit: str = option(
        "characters",
        "What the model predicts: characters, bytes, bpe or words.",
        choices=("characters", "bytes", "bpe", "words"),
        of_model=True,
    )
    vocabulary_size: int = option(1000, "Size of the vocabulary, for bpe or words.", least=2, of_model=True)
    validation: str | None = option(None, "Validation text, instead of a held-out part of FILE.")
    cell: str = cell_option("lstm")
    hidden_size: int = option(256, "Units per layer.", least=1, search=(32, 512), of_model=True)
    embedding_size: int = option(64, "Width of a token's embedding.", least=1, of_model=True)
    num_layers: int = option(1, "Recurrent layers.", least=1, search=(1, 3), of_model=True)
    tied: bool = option(
        False, "Also use the embedding's weights for the output, after a linear layer of the same width.", of_model=True
    )
    dropout: float = dropout_option(0.15, "after and between layers", "; for bpe and words, also before them")
    weight_dropout: float = weight_dropout_option()
    forget_bias: float | None = option(
        None,
        "Initial bias of forget gates, such as 1 for a long memory and -1 for a short one; default: -1 for characters and "
        "bytes, otherwise drawn as in torch.nn.",
        least=-10.0,
        most=10.0,
        of_model=True,
    )
    batch_size: int = option(32, "Streams of the text that are read in parallel.", least=1)
    window: int = option(
        64, "Steps between updates, and how far back gradients reach; the state is carried on.", least=1
    )
    held_out: float = option(0.1, "Share of the text, from its end, kept for validation.", least=0.001, most=0.9)
    learning_rate: float = learning_rate_option(1e-2, search=(1e-3, 3e-2))
    weight_decay: float = option(0.1, "AdamW's weight decay.", least=0, most=1e6)

    def check(self) -> None:
        super().check()
        cell = _check_cell(self.cell)
        if self.forget_bias is not None and "f" not in cell.gates:
            raise InputError(f"--forget-bias needs a cell with a forget gate f, and {self.cell} has none; leave it out")
        if self.unit == "bpe" and self.vocabulary_size < 257:
            raise InputError(
                f"--vocabulary-size must be 257 or more (256 bytes and the tokens merged from them), got {self.vocabulary_size}"
            )

    def useless(self, file: Path | None) -> dict[str, str]:
        if self.unit in ("bpe", "words"):
            return {}
        return {"vocabulary_size": f"is for --unit bpe and words, but the unit is {self.unit}; leave it out"}


@dataclass(frozen=True)
class TaggingOptions(Options):
    """The options of `elman train tag`."""

    task: ClassVar[str] = "tag"

    validation: str | None = option(None, "Validation file, instead of a held-out part of FILE.")
    held_out: float = option(
        0.1, "Share of the sentences, drawn at random, kept for validation.", least=0.001, most=0.9
    )
    tag: str = option(
        "upos", "Column of a CoNLL-U file: upos, xpos or deprel.", choices=("upos", "xpos", "deprel"), of_model=True
    )
    skip_bad: bool = option(False, "Skip malformed sentences and count them.")
    crf: bool | None = option(
        None,
        "Learn which tag may follow which, by a conditional random field; default: if the tags mark entities.",
        of_model=True,
        later=True,
    )
    cell: str = cell_option("lstm")
    hidden_size: int = option(128, "Units per layer and direction.", least=1, search=(32, 512), of_model=True)
    num_layers: int = option(
        2, "Recurrent layers; each reads in both directions.", least=1, search=(1, 3), of_model=True
    )
    word_size: int = option(100, "Width of a word's embedding.", least=1, of_model=True)
    character_size: int = option(32, "Width of a character's embedding.", least=1, of_model=True)
    spelling_size: int = option(64, "Units per direction that read the characters of a word.", least=1, of_model=True)
    min_count: int = option(2, "Words that occur fewer times share one embedding.", least=1, of_model=True)
    word_dropout: float = option(
        0.25, "A word that occurs n times is hidden with probability d / (d + n) in training.", least=0, most=1e6
    )
    dropout: float = dropout_option(0.4, "around and between layers")
    weight_dropout: float = weight_dropout_option()
    batch_size: int = option(32, "Sentences per update.", least=1)
    learning_rate: float = learning_rate_option(3e-3, search=(5e-4, 2e-2))

    def check(self) -> None:
        super().check()
        _check_cell(self.cell)


def _check_cell(name: str) -> Cell:
    """Returns the cell of that name. Raises InputError if there is none, or if these models cannot use it."""
    from elman import cells

    cell = cells.by_name(name, projected=False)
    if cell.projected:
        raise InputError(f"cell {name!r} projects its output, and this model does not support projections; choose lstm")
    return cell


@dataclass(frozen=True)
class ForecastingOptions(Options):
    """The options of `elman train forecast`."""

    task: ClassVar[str] = "forecast"

    columns: str | None = option(
        None, "Columns to forecast, separated by commas; default: all other columns.", of_model=True
    )
    known: str | None = option(None, "Columns that are known in advance, separated by commas.", of_model=True)
    observed: str | None = option(
        None,
        "Columns that are read, but neither forecast nor known in advance, separated by commas.",
        of_model=True,
        later=True,
    )
    categories: str | None = option(
        None, "Columns of --known or --observed that have words or codes.", of_model=True, later=True
    )
    time: str | None = option(None, "Column of times: dates or numbers. They are checked for order and gaps.")
    group: str | None = option(None, "Column that identifies the series, if the table has several.")
    fill_gaps: bool = option(
        False, "Repeat the last value where one is missing, and in gaps of --time. These are not scored."
    )
    skip_bad: bool = option(False, "Skip malformed rows and count them.")
    horizon: int = option(24, "Number of steps to forecast.", least=1, of_model=True)
    lookback: int = option(336, "Steps of the past that a forecast reads; a multiple of --segment.", least=1)
    segment: int = option(24, "Steps that the recurrent layer reads and writes at once.", least=1, of_model=True)
    strategy: str = option(
        "direct", "direct: all steps at once; recursive: one segment after another, from its own forecasts.",
        choices=("direct", "recursive"), of_model=True)  # fmt: skip
    quantiles: str | None = quantiles_option()
    split: str = option(
        "0.7,0.1,0.2", "Training, validation and test parts, in this order: shares, or numbers of rows."
    )
    period: int = option(24, "Steps of a season, for the baseline that repeats the last season and for MASE.", least=1)
    loss: str = loss_option("mae")
    cell: str = cell_option("gru")
    hidden_size: int = option(128, "Units per layer.", least=2, search=(32, 512), of_model=True)
    embedding_size: int = option(
        16, "Width of the embedding of a word in --categories, at most.", least=1, of_model=True, later=True
    )
    num_layers: int = option(1, "Recurrent layers.", least=1, search=(1, 3), of_model=True)
    dropout: float = dropout_option(0.2, "before the output")
    weight_dropout: float = weight_dropout_option()
    batch_size: int = option(64, "Windows per update.", least=1)
    learning_rate: float = learning_rate_option(3e-3, search=(5e-4, 2e-2))

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
    def observed_list(self) -> tuple[str, ...]:
        return _names(self.observed)

    @property
    def category_list(self) -> tuple[str, ...]:
        return _names(self.categories)

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
            raise InputError(f"--lookback {self.lookback} is not a multiple of --segment {self.segment}; use {near}")
        if self.lookback < self.period:
            raise InputError(f"--period {self.period} is longer than --lookback {self.lookback}; change one of them")
        _check_once({"--columns": self.column_list, "--known": self.known_list, "--observed": self.observed_list})
        _check_once({"--time": (self.time or "",), "--categories": self.category_list})
        for name in self.category_list:
            if name not in (*self.known_list, *self.observed_list):
                raise InputError(
                    f"--categories names {name!r}, which is in neither --known nor --observed; name it in one of them, too"
                )
        if self.observed_list and self.strategy == "recursive":
            raise InputError(
                "--strategy recursive reads its own forecasts as the past, and has none of --observed columns; forecast with --strategy direct, or leave --observed out"
            )
        _check_quantiles(self.quantiles, self.loss, type(self))
        try:
            split = self.split_list
        except ValueError as error:
            raise InputError(f"--split must be finite numbers separated by commas, got {error}") from error
        shares, rows = sum(split) <= 1 + 1e-9, all(part == int(part) for part in split)
        if len(split) != 3 or min(split) < 0 or not (shares or rows) or min(split[:2]) == 0:
            raise InputError(
                f"--split must be three shares that add up to at most 1, or three numbers of rows, got {self.split}; try 0.7,0.1,0.2"
            )

    def useless(self, file: Path | None) -> dict[str, str]:
        of_file = ("columns", "known", "observed", "categories", "time", "group", "fill_gaps")
        found: dict[str, str] = {} if file else dict.fromkeys(of_file, NO_FILE)
        if not self.category_list:
            found["embedding_size"] = "is for --categories, which are not given; leave it out"
        return found | _useless_with_quantiles(self.quantiles)


def _names(text: str | None) -> tuple[str, ...]:
    """Returns the names in a text, which has commas between them. One that has a comma itself stands in double quotes, as in CSV."""
    given = text or ""
    rows = csv.reader(StringIO(given, newline=""), skipinitialspace=True) if '"' in given else [given.split(",")]
    return tuple(name.strip() for row in rows for name in row if name.strip())


def quoted(names: Iterable[str]) -> str:
    """Returns the text that has these names."""
    return ",".join('"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name for name in names)


def _check_once(named: Mapping[str, Sequence[str]]) -> None:
    """Raises InputError if a column is named twice in these options."""
    seen: dict[str, str] = {}
    for name, columns in named.items():
        for column in columns:
            if column in seen:
                raise InputError(
                    f"{name} names the column {column!r} twice; name it once"
                    if seen[column] == name
                    else f"{seen[column]} and {name} both name the column {column!r}; name another one in one of them"
                )
            seen[column] = name


def _numbers(text: str) -> list[float]:
    """Returns the numbers in a comma-separated text. Raises ValueError for a value that is not a finite number."""
    numbers = [float(word) for word in text.split(",")] if text else []
    if any(number != number or abs(number) == float("inf") for number in numbers):
        raise ValueError(repr(text))
    return numbers


def _check_quantiles(quantiles: str | None, loss: str, of: type[Options]) -> None:
    """Raises InputError for quantiles that are none, or that are given with a loss of their own. of: whose options they are."""
    try:
        found = _numbers(quantiles or "")
    except ValueError as error:
        raise InputError(f"--quantiles must be finite numbers separated by commas, got {error}") from error
    if found != sorted(set(found)) or any(not 0 < q < 1 for q in found):
        raise InputError(f"--quantiles must be between 0 and 1, in increasing order, got {quantiles}; try 0.1,0.5,0.9")
    default = next(field.default for field in fields(of) if field.name == "loss")
    if found and loss != default:
        raise InputError(f"--quantiles uses its own loss, so --loss {loss} cannot be given with it")


def _useless_with_quantiles(quantiles: str | None) -> dict[str, str]:
    return {"loss": "has no effect with --quantiles, which uses its own loss; leave it out"} if quantiles else {}


@dataclass(frozen=True)
class SequenceOptions(Options):
    """The options of the tasks that predict something of a whole sequence."""

    numeric: ClassVar[bool] = False  # whether the labels are numbers
    several: ClassVar[bool] = False  # whether a label may have several columns
    empty_label: ClassVar[bool] = False  # whether a label may be an empty text
    built_in_texts: ClassVar[bool] = False  # whether the data without a file are texts, and not numbers

    validation: str | None = option(None, "Validation file, instead of a held-out part of FILE.")
    held_out: float = option(0.2, "Share of the sequences kept for validation, drawn at random.", least=0.001, most=0.9)
    group: str | None = option(
        None,
        "Column of a person or machine, or its name in JSON lines: all sequences of one are held out together.",
        later=True,
    )
    fold: str | None = option(
        None,
        "Leave one of N parts of FILE out, as K/N: nothing is learned or chosen by it, and it is judged last.",
        later=True,
    )
    label: str = option("label", "Column of the label, or its name in JSON lines.")
    sequence: str | None = option(None, "Column that identifies the sequence, in a table with a row for each step.")
    text: str | None = option(
        None, "Column of the text to read instead of numbers, or its name in JSON lines.", of_model=True
    )
    audio: str | None = option(
        None,
        "Column of the audio file to hear instead of numbers, or its name in JSON lines, where samples may stand, too.",
        of_model=True,
        later=True,
    )
    sample_rate: int = option(
        16000,
        "Samples a second at which audio is heard: half as many hertz are the highest frequency.",
        least=1000,
        most=384000,
        of_model=True,
        later=True,
    )
    bands: int = option(40, "Bands of frequencies that a step of audio has.", least=1, of_model=True, later=True)
    hop: float = option(
        10, "Milliseconds from a step of audio to the next.", least=1, most=1000, of_model=True, later=True
    )
    masks: int = option(
        0,
        "In training, hide neighbouring bands of each recording so many times, up to a fifth of them each time.",
        least=0,
        most=20,
        later=True,
    )
    columns: str | None = option(
        None, "Columns of numbers to read, separated by commas; default: all other columns.", of_model=True
    )
    categories: str | None = option(
        None,
        "Columns of words or codes to read, separated by commas, or their names in JSON lines.",
        of_model=True,
        later=True,
    )
    unit: str = option(
        "words", "Unit in which a text is read: words or characters.", choices=("words", "characters"), of_model=True
    )
    skip_bad: bool = option(False, "Skip malformed sequences and count them.")
    fill_gaps: bool = option(
        False,
        "Fill in missing numbers with those of the step before, or at the beginning of the first after.",
        later=True,
    )
    mark_gaps: bool = option(
        False,
        "Numbers may be missing: also read how long ago each was measured, if some are missing in training.",
        of_model=True,
        later=True,
    )
    time: str | None = option(
        None,
        "Column of times, dates or numbers, or their name in JSON lines: also read the time since the step before.",
        of_model=True,
        later=True,
    )
    cell: str = cell_option("gru")
    hidden_size: int = option(128, "Units per layer and direction.", least=1, search=(32, 512), of_model=True)
    num_layers: int = option(
        1, "Recurrent layers; each reads in both directions, unless --causal.", least=1, search=(1, 3), of_model=True
    )
    embedding_size: int = option(
        64, "Width of the embedding of a word or character, and at most of a category.", least=1, of_model=True
    )
    dropout: float = dropout_option(0.5, "between layers and before the output")
    weight_dropout: float = weight_dropout_option()
    noise: float = option(
        0.3, "Noise added to numbers in training, in standard deviations of each channel.", least=0, most=10
    )
    batch_size: int = option(32, "Sequences per update.", least=1)
    learning_rate: float = learning_rate_option(3e-3, search=(5e-4, 2e-2))

    @property
    def label_each_step(self) -> bool:
        """Whether each step has a label of its own."""
        return False

    @property
    def forward_only(self) -> bool:
        """Whether sequences are read forward only."""
        return False

    @property
    def pooled(self) -> bool:
        """Whether a model says one thing of a whole sequence, and not one of each step."""
        return not self.label_each_step

    @property
    def seconds(self) -> float | None:
        """Of a step of audio; None if none is heard."""
        return None if self.audio is None else step_of(self.sample_rate, self.hop) / self.sample_rate

    @property
    def column_list(self) -> tuple[str, ...] | None:
        """The columns of numbers, of which there may be none beside categories; None for all that are nothing else."""
        return _names(self.columns) or (() if self.columns is not None and self.category_list else None)

    @property
    def category_list(self) -> tuple[str, ...]:
        return _names(self.categories)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of the label, of which some tasks have several."""
        return _names(self.label) if self.several and set(self.label) & {",", '"'} else (self.label,)

    @property
    def between_classes(self) -> str | None:
        """What stands between the classes in a cell of --label, where a label is a set of them."""
        return None

    @property
    def fold_of(self) -> tuple[int, int] | None:
        """Which part is left out, from 1, and of how many."""
        if self.fold is None:
            return None
        k, n = self.fold.split("/")
        return int(k), int(n)

    def _are_recordings(self, path: Path | None) -> bool:
        """Returns whether a file is a recording that is heard, or a folder of such."""
        from elman.datasets.tables import is_audio

        return path is not None and is_audio(path) and self.text is None

    def of_data(self, path: Path | None) -> Self:
        """Returns the options with what the data themselves say. path: of a file or a folder; None for the built-in ones.

        Raises InputError if the options do not fit that.
        """
        if path is None and self.built_in_texts:
            return replace(self, text=self.text or TEXT)
        if self._are_recordings(path):
            found = replace(self, audio=self.audio or AUDIO)
            found.check()
            return found
        return self

    def check(self) -> None:
        super().check()
        _check_cell(self.cell)
        if self.fold is not None:
            found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.fold, re.ASCII)
            if found is None or not 1 <= int(found[1]) <= int(found[2]) or int(found[2]) < 2:
                raise InputError(
                    f"--fold must be K/N, the number of a part and of how many, at least 2, got {self.fold}; try 1/5"
                )
        if self.text is not None and (self.sequence is not None or self.columns is not None):
            raise InputError("--text reads a text in each row, so --sequence and --columns cannot be given with it")
        if self.audio is not None:
            others = {"--text": self.text, "--sequence": self.sequence, "--columns": self.columns}
            for name, value in others.items():
                if value is not None:
                    raise InputError(f"whole files of audio are heard, so {name} cannot be given with them")
        samples = step_of(self.sample_rate, self.hop)
        if samples > MOST_SAMPLES:
            raise InputError(
                f"--hop {self.hop:g} milliseconds at --sample-rate {self.sample_rate} are steps of {samples} samples, and at most {MOST_SAMPLES} are heard at once; make one of them smaller"
            )
        if self.bands > (most := most_bands(self.sample_rate, self.hop)):
            raise InputError(
                f"--bands {self.bands} are too many to tell apart in steps of --hop {self.hop:g} milliseconds at --sample-rate {self.sample_rate}; use at most {most}"
            )
        if self.masks and self.bands < FIFTH:
            raise InputError(
                f"--masks hides up to a fifth of the bands, and --bands {self.bands} are too few; give at least {FIFTH}"
            )
        own = {
            "--sequence": self.sequence,
            "--text": self.text,
            "--audio": self.audio,
            "--group": self.group,
            "--time": self.time,
        }
        labels = {"--label": self.label_columns}
        if not all(self.label_columns) or not self.label_columns:
            raise InputError("--label names no column; name one")
        _check_once({name: (column,) for name, column in own.items() if column is not None} | labels)
        named = {"--columns": self.column_list or (), "--categories": self.category_list}
        for name in ("--group", "--time"):
            _check_once({name: (own[name] or "",)} | named)
        _check_once(labels | named)
        if self.sequence is not None:
            _check_once({"--sequence": (self.sequence,), "--categories": self.category_list})
        if self.categories is not None and not self.category_list:
            raise InputError("--categories names no column; name one, or leave it out")

    def _files(self, file: Path | None) -> list[Path]:
        """Returns what is read: FILE and the validation file, if they are given."""
        return [Path(path) for path in (file, self.validation) if path is not None]

    def useless(self, file: Path | None) -> dict[str, str]:
        from elman.datasets.tables import form

        files = self._files(file)
        found: dict[str, str] = (
            {}
            if files
            else dict.fromkeys(
                (
                    "label",
                    "sequence",
                    "group",
                    "fold",
                    "text",
                    "audio",
                    "columns",
                    "categories",
                    "fill_gaps",
                    "mark_gaps",
                    "time",
                ),
                NO_FILE,
            )
        )
        if files and all(form(path) == ".ts" for path in files):
            found["label"] = f"names a column, but {files[0]} has its labels at the ends of its lines; leave it out"
        if self.text is None:
            found["unit"] = "is for texts, but without --text the data are numbers; leave it out"
            if not self.category_list:
                found["embedding_size"] = "is for --text and for --categories, but neither is given; leave it out"
        else:
            found |= dict.fromkeys(("noise", "fill_gaps", "mark_gaps", "time"), NO_NUMBERS)
            found["categories"] = "is for steps of numbers, but --text reads texts; leave it out"
        heard = self._are_recordings(next(iter(files), None))
        if heard:
            found["label"] = f"names a column, but the labels of {files[0]} are the names of its folders; leave it out"
        if self.audio is not None or heard:
            of_rows = ("categories", "fill_gaps", "mark_gaps", "time")
            found |= dict.fromkeys(of_rows, "is for steps of numbers, but audio is heard; leave it out")
        else:
            of_audio = ("sample_rate", "bands", "hop", "masks")
            found |= dict.fromkeys(of_audio, "says how audio is heard, but --audio is not given; leave it out")
        if self.validation is not None and self.fold is None:
            found["group"] = "holds out a part of FILE, but --validation names another file; leave it out"
        if self.forward_only:  # not in `check`: earlier versions trained such runs
            found["fill_gaps"] = (
                "fills in the beginning with numbers of later steps, which --causal must not read; give --mark-gaps instead"
            )
        if self.mark_gaps and self.text is None:
            found["fill_gaps"] = "has no effect with --mark-gaps, which fills gaps in its own way; leave it out"
        return found


@dataclass(frozen=True)
class LabelOptions(SequenceOptions):
    """The options of the tasks that predict a label or a number: one of a whole sequence, or one of each step."""

    each_step: bool = option(
        False,
        "Each step of numbers has a label of its own, and a table without --sequence is one sequence; or events in recordings have labels.",
        of_model=True,
        later=True,
    )
    begin: str = option(
        "begin",
        "With --audio and --each-step, column of the second at which an event begins, or its name in JSON lines.",
        later=True,
    )
    end: str = option("end", "Likewise, column of the second at which it ends.", later=True)
    causal: bool = causal_option("With --each-step, read forward only: what is said of a step depends on no later one.")
    window: int = option(
        500, "With --each-step, steps of the pieces that longer sequences are cut into.", least=2, later=True
    )

    @property
    def label_each_step(self) -> bool:
        return self.each_step

    @property
    def forward_only(self) -> bool:
        return self.causal

    @property
    def label_moments(self) -> bool:
        """Whether moments of recordings have labels, from a begin to an end."""
        return self.audio is not None and self.each_step

    def check(self) -> None:
        super().check()
        if self.text is not None and self.each_step:
            raise InputError(
                "--each-step is for numbers, and --text reads texts; learn labels of words with elman train tag"
            )
        if self.label_moments:
            own = {"--audio": self.audio, "--group": self.group, "--begin": self.begin, "--end": self.end}
            for name in ("--begin", "--end"):
                if not own[name]:
                    raise InputError(f"{name} names no column; name one")
            _check_once({"--label": self.label_columns} | {name: (each,) for name, each in own.items() if each})
        if self.causal and not self.each_step:
            raise InputError("--causal is for labels of each step; give --each-step, or leave it out")

    def useless(self, file: Path | None) -> dict[str, str]:
        found = super().useless(file)
        if not self.each_step:
            found["window"] = "is for labels of each step; give --each-step, or leave it out"
        first = next(iter(self._files(file)), None)
        folder = self._are_recordings(first)
        of_moments = ("begin", "end", "elsewhere")
        if not self.each_step or not (folder or self.audio is not None):
            give = "--each-step" if folder or self.audio is not None else "--audio and --each-step"
            none = f"is for labels of moments; give {give}, or leave it out"
            found |= dict.fromkeys(of_moments, none)
        elif folder:
            beside = f"names a column, but the labels of {first} are in text files beside its recordings; leave it out"
            found |= dict.fromkeys(("label", "begin", "end"), beside)
        return found


@dataclass(frozen=True)
class ClassificationOptions(LabelOptions):
    """The options of `elman train classify`."""

    task: ClassVar[str] = "classify"

    held_out: float = option(
        0.2,
        "Share of the sequences kept for validation; of each class, unless --group or --each-step.",
        least=0.001,
        most=0.9,
    )
    elsewhere: str | None = elsewhere_option()
    balanced: bool = option(False, "Give every class the same weight in the loss, however rare it is.")
    best_by: str = option(
        "accuracy", "Score that selects the parameters to keep: accuracy or macro_f1.", choices=("accuracy", "macro_f1")
    )
    smoothing: float = option(
        0.1, "Label smoothing: share of the target that is spread evenly over all classes.", least=0, most=0.99
    )

    def check(self) -> None:
        super().check()
        if self.elsewhere is not None and not self.elsewhere.strip():
            raise InputError("--elsewhere is no label; give one, such as silence, or leave it out")


@dataclass(frozen=True)
class MultilabelOptions(LabelOptions):
    """The options of `elman train multilabel`."""

    task: ClassVar[str] = "multilabel"
    several: ClassVar[bool] = True

    label: str = option(
        "label",
        "Column of the classes of a sequence, or its name in JSON lines; or several columns of 1 and 0, separated by commas.",
    )
    separator: str = option(";", "What stands between the classes in a cell of --label.")
    balanced: bool = option(
        False, "Give the sequences that have a class the same weight in its loss as those without, however rare it is."
    )
    best_by: str = option(
        "micro_f1", "Score that selects the parameters to keep: micro_f1 or macro_f1.", choices=("micro_f1", "macro_f1")
    )

    @property
    def between_classes(self) -> str | None:
        return self.separator if len(self.label_columns) == 1 else None

    def check(self) -> None:
        super().check()
        if not self.separator:
            raise InputError("--separator is empty; give what stands between two classes, such as ';'")
        if self.label_moments and self.between_classes is None:
            raise InputError(
                f"--label names {len(self.label_columns)} columns, but an event in a recording has its classes in one; name one"
            )

    def useless(self, file: Path | None) -> dict[str, str]:
        found = super().useless(file)
        if self.between_classes is None:
            found["separator"] = (
                "is for a column of several classes, but --label names columns of 1 and 0; leave it out"
            )
        elif file is None and self.validation is None:
            found["separator"] = NO_FILE
        return found


@dataclass(frozen=True)
class RegressionOptions(LabelOptions):
    """The options of `elman train regress`."""

    task: ClassVar[str] = "regress"
    numeric: ClassVar[bool] = True
    several: ClassVar[bool] = True

    label: str = option(
        "label", "Column of the number to predict, or its name in JSON lines; several separated by commas."
    )
    elsewhere: str | None = elsewhere_option()
    quantiles: str | None = quantiles_option()
    loss: str = loss_option("mse")
    dropout: float = dropout_option(0.1, "between layers and before the output")
    noise: float = option(
        0.1, "Noise added to numbers in training, in standard deviations of each channel.", least=0, most=10
    )

    @property
    def quantile_list(self) -> list[float]:
        return _numbers(self.quantiles or "")

    def check(self) -> None:
        super().check()
        _check_quantiles(self.quantiles, self.loss, type(self))
        if self.elsewhere is not None:
            from elman.datasets.sequences import MOST, number_of

            if len(self.label_columns) > 1 or isnan(number_of(self.elsewhere)):
                raise InputError(
                    f"--elsewhere should be the number of --label, at most {MOST:.3g} from zero, got {self.elsewhere!r}; give one number"
                )

    def useless(self, file: Path | None) -> dict[str, str]:
        return super().useless(file) | _useless_with_quantiles(self.quantiles)


@dataclass(frozen=True)
class TextOptions(SequenceOptions):
    """The options of the tasks that write a text for a sequence."""

    empty_label: ClassVar[bool] = True

    label: str = option("label", "Column of what a sequence says, or its name in JSON lines.")
    label_unit: str = option(
        "characters",
        "What a label is a row of: characters, or words with spaces between them.",
        choices=("characters", "words"),
        of_model=True,
    )
    dropout: float = dropout_option(0.3, "between layers and before the output")

    @property
    def pooled(self) -> bool:
        return False


@dataclass(frozen=True)
class TranscriptionOptions(TextOptions):
    """The options of `elman train transcribe`."""

    task: ClassVar[str] = "transcribe"

    causal: bool = causal_option("Read forward only: what is said of a step depends on no later one.")
    batch_size: int = option(16, "Sequences per update.", least=1)
    learning_rate: float = learning_rate_option(1e-2, search=(1e-3, 3e-2))

    @property
    def forward_only(self) -> bool:
        return self.causal


@dataclass(frozen=True)
class TranslationOptions(TextOptions):
    """The options of `elman train translate`."""

    task: ClassVar[str] = "translate"
    built_in_texts: ClassVar[bool] = True

    label: str = option("label", "Column of what is to be written, or its name in JSON lines.")
    unit: str = option(
        "characters",
        "Unit in which a text is read: words or characters.",
        choices=("words", "characters"),
        of_model=True,
    )
    num_layers: int = option(
        1, "Recurrent layers that read in both directions, and that write after they have looked back.", least=1,
        search=(1, 3), of_model=True)  # fmt: skip
    embedding_size: int = option(
        64, "Width of the embedding of a word or character, and at most of a category.", least=1, of_model=True
    )
    dropout: float = dropout_option(0.1, "around and between layers")

    def useless(self, file: Path | None) -> dict[str, str]:
        found = super().useless(file)
        found.pop("embedding_size", None)  # what is written has embeddings, whatever is read
        if file is None and self.validation is None:
            found["noise"] = NO_NUMBERS
            found.pop("unit", None)
        return found
