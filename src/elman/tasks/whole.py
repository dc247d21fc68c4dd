"""What the tasks share that predict something of a whole sequence, of numbers or of text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elman import cells
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled, sequences
from elman.datasets.store import Rows
from elman.errors import InputError
from elman.files import Kept, write_json
from elman.layout import Hidden
from elman.recurrent import Recurrent
from elman.tasks.options import SequenceOptions
from elman.tasks.separate import SeparateSequences, check_same, moments, padded
from elman.training.dropout import Dropout
from elman.training.record import device_of

STEPS = 1 << 16  # of which the mean is taken at once, at least
CHUNK = 256  # sequences that are read side by side
FAR = 1e30  # deviations from the mean, of which sums are still finite
RARE = 2  # words that occur in fewer texts have no embedding of their own
MOST = 0.8  # a share of unknown words of the training texts that is worth a remark
WORD = re.compile(r"\w+|[^\w\s]")


class SequenceModel(nn.Module):
    """Recurrent layers in both directions; the mean, the maximum and the last of their outputs; and a linear layer.

    forward(x, lengths) takes numbers (T, B, channels), or tokens (T, B), and lengths (B,). It returns (B, outputs).
    """

    def __init__(self, channels: int, tokens: int, outputs: int, options: SequenceOptions):
        """tokens: the size of the vocabulary of a text; 0 for numbers, of which there are `channels` a step."""
        super().__init__()
        o = options
        self.embedding = nn.Embedding(tokens, o.embedding_size) if tokens else None
        self.recurrent = Recurrent(
            cells.by_name(o.cell),
            o.embedding_size if tokens else channels,
            o.hidden_size,
            o.num_layers,
            bidirectional=True,
            dropout=o.dropout if o.num_layers > 1 else 0.0,
            weight_dropout=o.weight_dropout,
        )
        self.dropout = Dropout(o.dropout)
        self.output = nn.Linear(6 * o.hidden_size, outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.dropout(self.embedding(x))
        h, state = self.recurrent(x, lengths=lengths)
        return self.head(h, state, lengths)

    def head(self, h: Tensor, state: Hidden, lengths: Tensor) -> Tensor:
        """Returns (B, outputs) of h (T, B, 2 H), which is zero past the end of a sequence, and of final states."""
        states = state if isinstance(state, Tensor) else state[0]
        last = states[-2:].transpose(0, 1).flatten(1)  # (B, 2 H): each direction where it ends
        mean = h.sum(0) / lengths[:, None].to(h)
        past = torch.arange(len(h), device=h.device)[:, None] >= lengths  # (T, B)
        largest = h.masked_fill(past[..., None], -torch.inf).amax(0)
        return self.output(self.dropout(torch.cat([mean, largest, last], -1)))


class Gathered:
    """Sequences as numbers, of which there may be more than memory holds: a text as those of tokens as they first occur."""

    def __init__(self, unit: str | None, channels: int | None = None):
        """unit: what texts are read in; None for numbers.

        channels: those that every sequence must have, 0 for texts; if left out, those that the first one has.
        """
        self.unit, self.channels = unit, channels
        self.names: tuple[str, ...] = ()  # of the channels, where they are columns of a table
        # (T, channels), or tokens (T,). A channel far from zero changes by less than float32 can tell apart.
        self.rows = Rows(np.float64 if self.unit is None else np.int32)
        self._ids = Rows(np.uint8)  # what each is called in its file
        self.labels: list[int] = []
        self.different: dict[str, int] = {}  # labels, and the number of each
        self.tokens = {"": 0}  # likewise; the first one stands in a text without any
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, every: Iterable[Labelled], path: Path) -> None:
        """Appends the sequences of a file. Raises InputError if one is not of the kind that it must be."""
        tokens = self.tokens
        for each in every:
            content, label = each.content, str(each.label)
            self._check(each, path)
            self.names = self.names or each.channels
            if isinstance(content, str):
                numbers = [tokens.setdefault(token, len(tokens)) for token in split(content, self.unit or "words")]
                self.rows.append(np.array(numbers or [0], np.int32))
            else:
                self.rows.append(content)
            self._ids.append(np.frombuffer(bytearray(each.name.encode()), np.uint8))
            self.labels.append(self.different.setdefault(label, len(self.different)))
            # In float32, so that runs go on that were begun when numbers were kept in it.
            own = content.encode() if isinstance(content, str) else content.astype(np.float32).tobytes()
            self._digest.update(own + label.encode())
        self._digest.update(b"end of a file")

    def name(self, k: int) -> str:
        """Returns what a sequence is called in its file."""
        return self._ids[k].tobytes().decode()

    def _check(self, each: Labelled, path: Path) -> None:
        channels = 0 if isinstance(each.content, str) else each.content.shape[1]
        if self.channels is None:
            self.channels = channels
        if bool(channels) != bool(self.channels):
            kinds = ("numbers", "texts") if channels else ("a text", "numbers")
            raise InputError(f"{path}: sequence {each.name} is {kinds[0]}, but the run was trained on {kinds[1]}")
        if channels != self.channels:
            raise InputError(
                f"{path}: sequence {each.name} has {channels} channels, but the run was trained on {self.channels}"
            )

    def blocks(self, own: Iterable[int]) -> Iterator[NDArray[np.float64]]:
        """Yields the steps of these sequences, (n, channels), many at a time."""
        held, steps = [], 0
        for k in own:
            held.append(self.rows[k])
            steps += len(held[-1])
            if steps >= STEPS:
                yield np.concatenate(held)
                held, steps = [], 0
        if held:
            yield np.concatenate(held)

    @property
    def digest(self) -> str:
        """SHA-256 of all sequences, by which changed files are noticed."""
        return self._digest.hexdigest()


@dataclass(frozen=True)
class Inputs:
    """How a sequence is turned into what a network reads."""

    mean: Sequence[float]  # of each channel; empty for texts
    deviation: Sequence[float]
    tokens: Sequence[str]  # words or characters; token 0 stands for all others. Empty for numbers.
    channels: Sequence[str] = ()  # the columns of a table that they are; empty where they have no names

    @classmethod
    def of(cls, sequences: Gathered, own: Sequence[int] | NDArray[np.int64]) -> Inputs:
        """Learns it from the sequences at these places."""
        if sequences.unit is None:
            mean, deviation = moments(sequences.blocks(own), sequences.rows.step[0])
            return Inputs(mean.tolist(), deviation.tolist(), [], list(sequences.names))
        counts = np.zeros(len(sequences.tokens), np.int64)  # of the sequences that have a token
        for k in own:
            counts[np.unique(sequences.rows[k])] += 1
        least = RARE if sequences.unit == "words" else 1
        return Inputs([], [], sorted(t for t, n in zip(sequences.tokens, counts, strict=True) if t and n >= least))

    def save(self, directory: Path) -> None:
        write_json(directory / "vocabulary.json", asdict(self))

    @classmethod
    def load(cls, kept: Kept) -> Self:
        content = kept.json("vocabulary.json")
        try:
            found = cls(**content)
            found.check()
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{kept.place('vocabulary.json')} is damaged: {error}; restore it or train again"
            ) from error
        return found

    def check(self) -> None:
        """Raises ValueError, or TypeError, if these cannot be what was learned of data."""
        if len(self.mean) != len(self.deviation) or bool(self.mean) == bool(self.tokens):
            raise ValueError("channels and tokens do not fit each other")
        if len(self.channels) not in (0, len(self.mean)):
            raise ValueError("the names of the channels do not fit their numbers")

    @property
    def size(self) -> int:
        """The number of tokens, with the one that stands for all others; 0 for numbers."""
        return len(self.tokens) + 1 if self.tokens else 0


def split(text: str, unit: str) -> list[str]:
    """Returns the words of a text in lower case, and its signs; or its characters."""
    return WORD.findall(text.lower()) if unit == "words" else list(text)


class Encoded:
    """Sequences as what a network reads."""

    def __init__(self, sequences: Gathered, inputs: Inputs):
        self.rows = sequences.rows
        tokens = {token: k for k, token in enumerate(inputs.tokens, 1)}
        self._written = list(sequences.tokens)
        self._tokens = np.array([tokens.get(token, 0) for token in self._written])
        self._mean, self._deviation = (
            torch.tensor(values, dtype=torch.float64) for values in (inputs.mean, inputs.deviation)
        )

    def tokens(self, own: Iterable[int], words: bool = False) -> tuple[int, int]:
        """Returns how many tokens these texts have, and how many of them are unknown. words: leaves out signs."""
        counts = np.zeros(len(self._tokens), np.int64)
        for k in own:
            np.add.at(counts, self.rows[k], 1)
        real = np.array([bool(t) and (not words or t[0].isalnum()) for t in self._written])
        return int(counts[real].sum()), int(counts[real & (self._tokens == 0)].sum())

    def batch(self, own: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Returns numbers (T, B, channels) in deviations from the mean, or tokens (T, B), and the lengths (B,)."""
        if len(self._mean):
            x, lengths = padded([self.rows[k] for k in own])
            # A number may be further from what was learned from than float32 reaches.
            return ((x - self._mean) / self._deviation).clamp(-FAR, FAR).float(), lengths
        return padded([self._tokens[self.rows[k]] for k in own])


Parts = tuple[
    Gathered, NDArray[np.int64], NDArray[np.int64]
]  # sequences, and the places of those to learn from and to judge by
Learned = TypeVar("Learned", bound=Inputs)
Given = TypeVar("Given", bound=SequenceOptions)


class Trained(Generic[Learned, Given]):
    """A model with what it knows of the data: what a run holds when it is trained."""

    encoded: ClassVar[Any]  # `Encoded` with labels, made of sequences that were gathered and of what was learned
    built_in: ClassVar[str]  # what the data without a file are called

    def __init__(
        self,
        model: SequenceModel,
        reading: Learned,
        options: Given,
        path: Path | None = None,
        digest: str | None = None,
    ):
        """path: the training data; None for the built-in sequences. digest: that of these data, if it is known."""
        self.model, self.reading, self.options, self.path, self.digest = model, reading, options, path, digest
        self.skipped = BadRows()  # what the last call of `predict` leaves out

    @property
    def remarks(self) -> list[str]:
        """What there is to say of the last predictions."""
        return self.skipped.remarks

    @property
    def width(self) -> int:
        """The number of outputs of the model."""
        raise NotImplementedError

    def encode(self, every: Iterable[Labelled], path: Path) -> Any:
        """Raises InputError, naming the path, for a sequence that is not of the kind that was learned from."""
        gathered = Gathered(unit_of(self.options), len(self.reading.mean))
        gathered.add(every, path)
        return self.encoded(gathered, self.reading)

    @torch.inference_mode()
    def outputs(self, encoded: Encoded, own: NDArray[np.int64] | None = None) -> Tensor:
        """Returns what the model says of sequences, (N, outputs). own: the places of N sequences; all if left out."""
        device, training = device_of(self.model), self.model.training
        self.model.eval()
        own = np.arange(len(encoded.rows)) if own is None else own
        found = torch.empty(len(own), self.width)
        order = np.argsort(encoded.rows.lengths[own], kind="stable")
        for begin in range(0, len(order), CHUNK):
            chunk = order[begin : begin + CHUNK]
            x, lengths = encoded.batch(own[chunk])
            found[torch.from_numpy(chunk)] = self.model(x.to(device), lengths.to(device)).float().cpu()
        self.model.train(training)
        return found

    def parts(self) -> Parts:
        """Returns the training data, read again."""
        raise NotImplementedError

    def read_again(self) -> Parts:
        """Returns what `parts` does. Raises InputError if the data cannot be read, or have changed."""
        found = self.parts()
        check_same(self.digest, found[0].digest, self.path or self.built_in, self.options.validation)
        return found

    def read(self, path: Path) -> tuple[Any, list[tuple[str, str]]]:
        """Returns the labelled sequences of a file, and what there is to say of them before they are judged."""
        bad = BadRows(self.options.skip_bad)
        encoded = self.encode(sequences(path, columns_of(self.options, self.reading), bad=bad), path)
        if not len(encoded.rows):
            raise InputError(f"{path} has no sequence; give at least one, with its label")
        lines = [("sequences", str(len(encoded.rows)))]
        if unit_of(self.options):
            tokens, strange = encoded.tokens(range(len(encoded.rows)))
            share = f"{strange}, {strange / max(1, tokens):.1%}"
            lines.append((f"unknown {self.options.unit}", f"{share}: the network reads one stand-in for all"))
        if bad.count:
            lines.append(("skipped", f"{bad.count}, the first: {bad.first}"))
        return encoded, lines


class WholeSequences(SeparateSequences):
    """A part of a task (`elman.training.task.Task`), in which one thing is learned of each sequence."""

    data, unit = "sequences", "sequence"

    def __init__(
        self,
        trained: Trained[Any, Any],
        sequences: Gathered,
        train: NDArray[np.int64],
        validation: NDArray[np.int64],
        path: Path | None,
    ):
        """train, validation: places of sequences. path: where these come from; None for the built-in sequences."""
        self.path, self.source = path, str(path or trained.built_in)
        self.use(trained)
        self.train, self.validation, self.digest = train, validation, sequences.digest
        self.encoded = trained.encoded(sequences, trained.reading)
        self.lengths = self.encoded.rows.lengths[train]

    def use(self, trained: Any) -> None:
        self.trained, self.model, self.options = trained, trained.model, trained.options

    def outputs(self, own: NDArray[np.int64]) -> Tensor:
        """Returns what the model says of training sequences, (N, outputs), with noise added to their numbers."""
        device = device_of(self.model)
        x, lengths = self.encoded.batch(self.train[own])
        if x.is_floating_point():
            x = x + self.options.noise * torch.randn_like(x)
        return self.model(x.to(device), lengths.to(device))

    def sizes(self) -> dict[str, Any]:
        """Returns where the data are, and how many."""
        return {
            "path": None if self.path is None else str(self.path.resolve()),
            "train_sequences": len(self.train),
            "validation_sequences": len(self.validation),
        }

    def write(self, directory: Path) -> None:
        self.trained.reading.save(directory)

    def introduction(self) -> list[tuple[str, str]]:
        reading, unit = self.trained.reading, self.options.unit
        what = f"{len(reading.mean)} channels" if reading.mean else f"{len(reading.tokens)} different {unit}"
        lines = [
            (
                "sequences",
                f"{self.source}: {len(self.train):,} for training, {len(self.validation):,} for validation; "
                f"{self.lengths.min()} to {self.lengths.max()} steps, {what}",
            )
        ]
        if unit == "words" and reading.tokens:
            words, strange = self.encoded.tokens(self.train, words=True)
            if strange > MOST * words:
                only = f"{strange:,} of {words:,} words of the training occur in one text only, and are not told apart"
                lines.append(("words", f"{only}; --unit characters may learn more"))
        return lines


def unit_of(options: SequenceOptions) -> str | None:
    """Returns what texts are read in, None for numbers."""
    return None if options.text is None else options.unit


def columns_of(options: SequenceOptions, inputs: Inputs | None = None) -> Columns:
    """Returns what is read of a table. inputs: what was learned; channels are then its own, whatever their order."""
    own = tuple(inputs.channels if inputs else ()) or options.column_list
    return Columns(options.label, options.sequence, options.text, own, options.fill_gaps, options.numeric)


def gathered(
    path: Path | None, options: SequenceOptions, bad: BadRows, built_in: Iterable[Labelled], inputs: Inputs | None
) -> tuple[Gathered, int]:
    """Returns all sequences, and how many of them are not of the validation file.

    built_in: what is read without a file. inputs: what was learned of the data before, whose channels they must have.
    """
    o, columns = options, columns_of(options, inputs)
    found = Gathered(unit_of(o) if path else None, None if inputs is None else len(inputs.mean))
    found.add(built_in if path is None else sequences(path, columns, bad=bad), path or Path("the built-in data"))
    count = len(found)
    if o.validation is not None:
        columns = columns._replace(channels=found.names or columns.channels)
        found.add(sequences(Path(o.validation), columns, bad=bad), Path(o.validation))
    return found, count


def check_tokens(inputs: Inputs, sequences: Gathered, path: Path | None, count: int) -> None:
    """Raises InputError if nothing was learned of texts. count: how many there are."""
    if sequences.unit is not None and not inputs.tokens:
        lacks = "word that occurs in two" if sequences.unit == "words" else "character in any"
        remedy = (
            "read them with --unit characters, or give more" if sequences.unit == "words" else "give texts with some"
        )
        raise InputError(f"{path} has no {lacks} of its {count} training texts; {remedy}")
