"""Classification: one label for a whole sequence of numbers, or for a text."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from elman import cells
from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled, sequences
from elman.datasets.store import Rows
from elman.datasets.tables import JSON_LINES
from elman.errors import InputError
from elman.files import Kept, write_json
from elman.layout import Hidden
from elman.recurrent import Recurrent
from elman.tasks import scores
from elman.tasks.options import ClassificationOptions as Options
from elman.tasks.separate import (
    SeparateSequences,
    check_made_for,
    check_same,
    csv_row,
    groups,
    held_out,
    moments,
    padded,
    started,
)
from elman.training.dropout import Dropout
from elman.training.record import DATA, Record, data_of, device_of
from elman.training.run import Run

CONFIG = DATA
STEPS = 1 << 16  # of which the mean is taken at once, at least
CHUNK = 256  # sequences that are classified side by side
LARGEST = "largest class"  # what the baseline is called
FAR = 1e30  # deviations from the mean, of which sums are still finite
RARE = 2  # words that occur in fewer texts have no embedding of their own
MOST = 0.8  # a share of unknown words of the training texts that is worth a remark
WORD = re.compile(r"\w+|[^\w\s]")


class ClassificationModel(nn.Module):
    """Recurrent layers in both directions; the mean, the maximum and the last of their outputs; and a linear layer.

    forward(x, lengths) takes numbers (T, B, channels), or tokens (T, B), and lengths (B,). It returns logits (B, classes).
    """

    def __init__(self, channels: int, tokens: int, classes: int, options: Options):
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
        self.output = nn.Linear(6 * o.hidden_size, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.dropout(self.embedding(x))
        h, state = self.recurrent(x, lengths=lengths)
        return self.head(h, state, lengths)

    def head(self, h: Tensor, state: Hidden, lengths: Tensor) -> Tensor:
        """Returns the logits (B, classes) of outputs (T, B, 2 H), which are zero past the end of a sequence, and final states."""
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
        self.classes: dict[str, int] = {}  # the number of each
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
            self.labels.append(self.classes.setdefault(label, len(self.classes)))
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


class Reading(NamedTuple):
    """What was learned of the data besides weights: classes, and how a sequence is turned into numbers."""

    classes: list[str]
    mean: list[float]  # of each channel; empty for texts
    deviation: list[float]
    tokens: list[str]  # words or characters; token 0 stands for all others. Empty for numbers.
    channels: Sequence[str] = ()  # the columns of a table that they are; empty where they have no names

    @classmethod
    def learn(cls, sequences: Gathered, own: Sequence[int] | NDArray[np.int64] | None = None) -> Reading:
        """own: the places of the sequences to learn from; all if left out."""
        own, names = range(len(sequences)) if own is None else own, list(sequences.classes)
        classes = sorted(
            {names[sequences.labels[k]] for k in own}, key=lambda c: (len(c), c) if c.isdigit() else (1 << 30, c)
        )
        if sequences.unit is None:
            mean, deviation = moments(sequences.blocks(own), sequences.rows.step[0])
            return cls(classes, mean.tolist(), deviation.tolist(), [], list(sequences.names))
        counts = np.zeros(len(sequences.tokens), np.int64)  # of the sequences that have a token
        for k in own:
            counts[np.unique(sequences.rows[k])] += 1
        least = RARE if sequences.unit == "words" else 1
        return cls(
            classes, [], [], sorted(t for t, n in zip(sequences.tokens, counts, strict=True) if t and n >= least)
        )

    def save(self, directory: Path) -> None:
        write_json(directory / "vocabulary.json", self._asdict())

    @classmethod
    def load(cls, kept: Kept) -> Reading:
        content = kept.json("vocabulary.json")
        try:
            found = cls(**content)
            if len(found.mean) != len(found.deviation) or not found.classes or bool(found.mean) == bool(found.tokens):
                raise ValueError("classes, channels and tokens do not fit each other")
            if len(found.channels) not in (0, len(found.mean)):
                raise ValueError("the names of the channels do not fit their numbers")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{kept.place('vocabulary.json')} is damaged: {error}; restore it or train again"
            ) from error
        return found


def split(text: str, unit: str) -> list[str]:
    """Returns the words of a text in lower case, and its signs; or its characters."""
    return WORD.findall(text.lower()) if unit == "words" else list(text)


class Encoded:
    """Sequences as what a model reads."""

    def __init__(self, sequences: Gathered, reading: Reading):
        self.rows = sequences.rows
        # Runs of earlier versions may have blanks around their classes.
        classes = {name.strip(): k for k, name in enumerate(reading.classes)}
        tokens = {token: k for k, token in enumerate(reading.tokens, 1)}
        known = np.array([classes.get(name, -1) for name in sequences.classes], dtype=np.int64)
        self.labels = known[sequences.labels]  # (N,), -1 for an unknown class
        self._names, self._given = list(sequences.classes), sequences.labels
        self._written = list(sequences.tokens)
        self._tokens = np.array([tokens.get(token, 0) for token in self._written])
        self._mean, self._deviation = (
            torch.tensor(values, dtype=torch.float64) for values in (reading.mean, reading.deviation)
        )

    def unknown(self, own: NDArray[np.int64]) -> Counter[str]:
        """Returns the classes of these sequences that the training did not have, and how often each occurs."""
        return Counter(self._names[self._given[k]] for k in own[self.labels[own] < 0])

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


class Classifier:
    """A model with what it knows of the data: what a run holds when it is trained."""

    def __init__(
        self,
        model: ClassificationModel,
        reading: Reading,
        options: Options,
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

    def encode(self, every: Iterable[Labelled], path: Path) -> Encoded:
        """Raises InputError, naming the path, for a sequence that is not of the kind that was learned from."""
        gathered = Gathered(unit_of(self.options), len(self.reading.mean))
        gathered.add(every, path)
        return Encoded(gathered, self.reading)

    @torch.inference_mode()
    def logits(self, encoded: Encoded, own: NDArray[np.int64] | None = None) -> Tensor:
        """Returns logits (N, classes). own: the places of N sequences; all if left out."""
        device, training = device_of(self.model), self.model.training
        self.model.eval()
        own = np.arange(len(encoded.rows)) if own is None else own
        found = torch.empty(len(own), len(self.reading.classes))
        order = np.argsort(encoded.rows.lengths[own], kind="stable")
        for begin in range(0, len(order), CHUNK):
            chunk = order[begin : begin + CHUNK]
            x, lengths = encoded.batch(own[chunk])
            found[torch.from_numpy(chunk)] = self.model(x.to(device), lengths.to(device)).float().cpu()
        self.model.train(training)
        return found

    def classify(self, encoded: Encoded) -> tuple[list[str], NDArray[np.float32]]:
        """Returns the likeliest class of every sequence, and the probabilities (N, classes)."""
        probabilities = self.logits(encoded).softmax(-1)
        return [self.reading.classes[k] for k in probabilities.argmax(-1)], probabilities.numpy()

    def score(self, encoded: Encoded, own: NDArray[np.int64] | None = None) -> tuple[dict[str, float], scores.Scores]:
        """Returns named scores, and the table of counts. A label of -1 is wrong in any case.

        own: the places of the sequences; all if left out.
        """
        own = np.arange(len(encoded.rows)) if own is None else own
        logits, labels = self.logits(encoded, own), encoded.labels[own]
        predicted, known = logits.argmax(-1).numpy(), np.flatnonzero(labels >= 0)
        counts = scores.counted(labels, predicted, len(self.reading.classes), len(encoded.unknown(own)))
        nats = float(cross_entropy(logits[known], torch.from_numpy(labels[known]))) if len(known) else 0.0
        accuracy = float((predicted == labels).mean())
        return {"validation_nats": nats, "accuracy": accuracy, "macro_f1": counts.macro_f1}, counts

    def evaluate(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yields names and figures for a file whose sequences have labels."""
        bad = BadRows(self.options.skip_bad)
        encoded = self.encode(sequences(path, columns_of(self.options, self.reading), bad=bad), path)
        if not len(encoded.rows):
            raise InputError(f"{path} has no sequence; give at least one, with its label")
        found, counts = self.score(encoded)
        yield "sequences", str(len(encoded.rows))
        if unit_of(self.options):
            tokens, strange = encoded.tokens(range(len(encoded.rows)))
            share = f"{strange}, {strange / max(1, tokens):.1%}"
            yield f"unknown {self.options.unit}", f"{share}: the network reads one stand-in for all"
        if bad.count:
            yield "skipped", f"{bad.count}, the first: {bad.first}"
        if unknown := encoded.unknown(np.arange(len(encoded.rows))):
            yield "unknown label", scores.unknown(unknown)
        for name, value in found.items():
            yield name.replace("validation_nats", "nats_per_sequence").replace("_", " "), f"{value:.4f}"
        score = self.options.best_by.replace("_f1", " F1")
        yield from scores.on_baselines(self.path, lambda: self._baselines(encoded), score)
        yield from counts.by_label(self.reading.classes, "sequences")

    def _baselines(self, judged: Encoded) -> dict[str, float]:
        learned, train, _ = self.read_again()
        own = Encoded(learned, self.reading).labels[train]
        every, classes = np.arange(len(judged.rows)), len(self.reading.classes)
        return {LARGEST: always(own, judged, every, classes, self.options.best_by)}

    def read_again(self) -> tuple[Gathered, NDArray[np.int64], NDArray[np.int64]]:
        """Returns what `read` does of the training data. Raises InputError if they cannot be read, or have changed."""
        found = read(self.path, self.options, BadRows(self.options.skip_bad), self.reading)
        check_same(self.digest, found[0].digest, self.path or examples.LABELLED, self.options.validation)
        return found

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence of a file: its class and the probability of every class."""
        classes, header = self.reading.classes, form not in JSON_LINES
        columns, self.skipped = columns_of(self.options, self.reading), BadRows(self.options.skip_bad)
        for group in groups(sequences(path, columns, labelled=False, bad=self.skipped), CHUNK):
            found, probabilities = self.classify(self.encode(group, path))
            if header:
                yield csv_row(["sequence", "class", *(f"p_{name}" for name in classes)])
                header = False
            for each, name, row in zip(group, found, probabilities.tolist(), strict=True):
                if form in JSON_LINES:
                    chances = {c: float(f"{p:.6g}") for c, p in zip(classes, row, strict=True)}
                    content = {"sequence": each.name, "class": name, "probabilities": chances}
                    yield json.dumps(content, ensure_ascii=False) + "\n"
                else:
                    yield csv_row([each.name, name, *row])


class Classification(SeparateSequences):
    """The task, as `elman.training.task.Task` has it."""

    name, data, measure, unit = "classify", "sequences", "nats", "sequence"
    higher_is_better = True

    def __init__(
        self,
        classifier: Classifier,
        sequences: Gathered,
        train: NDArray[np.int64],
        validation: NDArray[np.int64],
        path: Path | None,
    ):
        """train, validation: places of sequences. path: where these come from; None for the built-in sequences."""
        self.path, self.source = path, str(path or examples.LABELLED)
        self.use(classifier)
        o = self.options
        self.train, self.validation, self.digest = train, validation, sequences.digest
        self.encoded = Encoded(sequences, classifier.reading)
        self.lengths, self.labels = self.encoded.rows.lengths[train], self.encoded.labels[train]
        self.score, self.score_unit = o.best_by, o.best_by.replace("_f1", " F1")
        counts = np.bincount(self.labels, minlength=len(classifier.reading.classes))
        # A class that only the run has from which the training starts weighs nothing: smoothing would learn to say it.
        weights = np.where(counts > 0, len(train) / np.maximum(1, counts) / (counts > 0).sum(), 0.0)
        self.weights = torch.from_numpy(weights.astype(np.float32)) if o.balanced else None

    def use(self, classifier: Classifier) -> None:
        self.classifier, self.model, self.options = classifier, classifier.model, classifier.options

    def untrained(self, options: Options) -> Classifier:
        return _classifier(self.classifier.reading, options, str(device_of(self.model)), self.path)

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        device = device_of(self.model)
        x, lengths = self.encoded.batch(self.train[own])
        if x.is_floating_point():
            x = x + self.options.noise * torch.randn_like(x)
        logits = self.model(x.to(device), lengths.to(device))
        target = torch.from_numpy(self.labels[own]).to(device)
        weights = None if self.weights is None else self.weights.to(device)
        return cross_entropy(logits, target, weights, label_smoothing=self.options.smoothing)

    def weight(self, own: NDArray[np.int64]) -> float | None:
        return None if self.weights is None else float(self.weights[torch.from_numpy(self.labels[own])].sum())

    def evaluate(self) -> dict[str, float]:
        return self.classifier.score(self.encoded, self.validation)[0]

    def about(self) -> dict[str, Any]:
        classes = len(self.classifier.reading.classes)
        baseline = always(self.labels, self.encoded, self.validation, classes, self.score)
        data = {
            "path": None if self.path is None else str(self.path.resolve()),
            "train_sequences": len(self.train),
            "validation_sequences": len(self.validation),
        }
        return {"data": data, "baselines": {LARGEST: baseline}}

    def baseline(self, name: str) -> str:
        return "predicts the most frequent class for every sequence"

    def write(self, directory: Path) -> None:
        self.classifier.reading.save(directory)

    def introduction(self) -> list[tuple[str, str]]:
        reading = self.classifier.reading
        counts = np.bincount(self.labels, minlength=len(reading.classes))
        order = np.argsort(-counts, kind="stable")[:12]
        shown = ", ".join(f"{reading.classes[k]} {counts[k] / counts.sum():.0%}" for k in order)
        what = (
            f"{len(reading.mean)} channels" if reading.mean else f"{len(reading.tokens)} different {self.options.unit}"
        )
        lines = [
            (
                "sequences",
                f"{self.source}: {len(self.train):,} for training, {len(self.validation):,} for validation; "
                f"{self.lengths.min()} to {self.lengths.max()} steps, {what}",
            ),
            ("classes", f"{len(reading.classes)}: {shown}{' ...' if len(reading.classes) > 12 else ''}"),
        ]
        if unknown := self.encoded.unknown(self.validation):
            lines.append(("unknown", scores.unknown(unknown, " classes of validation sequences")))
        if self.options.unit == "words" and reading.tokens:
            words, strange = self.encoded.tokens(self.train, words=True)
            if strange > MOST * words:
                only = f"{strange:,} of {words:,} words of the training occur in one text only, and are not told apart"
                lines.append(("words", f"{only}; --unit characters may learn more"))
        return lines

    def result(self, row: Mapping[str, str]) -> str:
        accuracy, f1, nats = (float(row[name]) for name in ("accuracy", "macro_f1", "validation_nats"))
        return f"accuracy {accuracy:.4f}, macro F1 {f1:.4f}, {nats:.4f} nats per sequence"

    def draw(self, directory: Path) -> list[Path]:
        """Draws the confusion matrix on the validation sequences."""
        from elman import charts

        _, counts = self.classifier.score(self.encoded, self.validation)
        path = directory / "confusion.png"
        charts.save(charts.confusion(counts.counts, self.classifier.reading.classes, "class", "sequences"), path)
        return [path]


def unit_of(options: Options) -> str | None:
    """Returns what texts are read in, None for numbers."""
    return None if options.text is None else options.unit


def always(learned: NDArray[np.int64], judged: Encoded, own: NDArray[np.int64], classes: int, score: str) -> float:
    """Returns the score of saying of the sequences `own` the class that is the most frequent one in `learned`."""
    labels = judged.labels[own]
    guess = np.full(len(labels), np.bincount(learned[learned >= 0], minlength=classes).argmax())
    if score == "accuracy":
        return float((guess == labels).mean())
    return scores.counted(labels, guess, classes, len(judged.unknown(own))).macro_f1


def columns_of(options: Options, reading: Reading | None = None) -> Columns:
    """Returns what is read of a table. reading: what was learned; channels are then its own, whatever their order."""
    channels = reading.channels if reading else []
    own = tuple(channels) or options.column_list
    return Columns(options.label, options.sequence, options.text, own, options.fill_gaps)


def read(
    path: Path | None, options: Options, bad: BadRows, reading: Reading | None = None
) -> tuple[Gathered, NDArray[np.int64], NDArray[np.int64]]:
    """Returns the sequences and the indices of the training and validation sets, with the same share of each class.

    reading: what was learned of the data before, whose channels they must have.
    """
    o, columns, where = options, columns_of(options, reading), path or Path(examples.LABELLED)
    channels = None if reading is None else len(reading.mean)
    found, fonts = Gathered(unit_of(o) if path else None, channels), list[str]()
    if path is None:
        for steps, digit, font in examples.digits():
            fonts.append(font)
            found.add([Labelled(str(len(fonts)), steps, digit)], where)
    else:
        found.add(sequences(path, columns, bad=bad), path)
    count = len(found)
    if o.validation is not None:
        columns = columns._replace(channels=found.names or columns.channels)
        found.add(sequences(Path(o.validation), columns, bad=bad), Path(o.validation))
        train, validation = np.arange(count), np.arange(count, len(found))
    elif path is None:  # fonts that were never seen
        apart = set(sorted(set(fonts))[:: max(2, round(1 / o.held_out))])
        held = np.array([font in apart for font in fonts])
        train, validation = np.flatnonzero(~held), np.flatnonzero(held)
    else:
        train, validation = _halves(np.array(found.labels, dtype=np.int64), o)
    if not len(train) or not len(validation):
        raise InputError(
            f"{where} leaves {len(train)} sequences for training and {len(validation)} for validation; give at least two of each class"
        )
    if len({found.labels[k] for k in train}) < 2:
        only = list(found.classes)[found.labels[train[0]]]
        raise InputError(f"{path} has only one class, {only!r}; give sequences of at least two classes")
    return found, train, validation


def _halves(labels: NDArray[np.int64], options: Options) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the indices for training and validation, with the same share of each class. A lone sequence of a class is for training."""
    apart = np.zeros(len(labels), dtype=bool)
    by_class = np.argsort(labels, kind="stable")
    for own in np.split(by_class, np.bincount(labels).cumsum()[:-1]):
        if len(own) > 1:
            apart[own[held_out(len(own), options.held_out, options.seed)[1]]] = True
    return np.flatnonzero(~apart), np.flatnonzero(apart)


def begin(path: Path | None, options: Options, device: str, bad: BadRows, start: Run | None = None) -> Classification:
    """Returns a task that trains a model on a file. start: a run from whose model it starts; None for a new one."""
    check_made_for(start, options, CONFIG)
    known = None if start is None else Reading.load(start)
    found, train, validation = read(path, options, bad, known)
    reading = Reading.learn(found, train) if known is None else known
    if start is not None:
        scores.check_known(Encoded(found, reading).unknown(train), "classes", path, start)
    if found.unit is not None and not reading.tokens:
        lacks = "word that occurs in two" if found.unit == "words" else "character in any"
        remedy = "read them with --unit characters, or give more" if found.unit == "words" else "give texts with some"
        raise InputError(f"{path} has no {lacks} of its {len(train)} training texts; {remedy}")
    torch.manual_seed(options.seed)
    return started(Classification(_classifier(reading, options, device, path), found, train, validation, path), start)


def resume(run: Run, path: Path | None, options: Options, device: str) -> Classification:
    """Returns the task of a run. Its data are read again; its model does not have its parameters yet."""
    reading = Reading.load(run)
    data = read(path, options, BadRows(options.skip_bad), reading)
    return Classification(_classifier(reading, options, device, path), *data, path)


def load(record: Record | Path, device: str = "cpu") -> Classifier:
    """Returns the classifier of a run, with the parameters that were best on the validation sequences."""
    record = Run(record) if isinstance(record, Path) else record
    options, config = record.options(Options, CONFIG)
    reading = Reading.load(record)
    model = record.model(lambda: _model(reading, options), device)
    return Classifier(model, reading, options, data_of(config), record.digest())


def _classifier(reading: Reading, options: Options, device: str, path: Path | None) -> Classifier:
    return Classifier(_model(reading, options).to(device), reading, options, path)


def _model(reading: Reading, options: Options) -> ClassificationModel:
    tokens = len(reading.tokens) + 1 if reading.tokens else 0
    return ClassificationModel(len(reading.mean), tokens, len(reading.classes), options)
