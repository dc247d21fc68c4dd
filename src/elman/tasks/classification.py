"""Classification: one label for a whole sequence of numbers, or for a text."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from elman import cells
from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled, sequences
from elman.errors import InputError
from elman.files import read_json, write_atomically
from elman.recurrent import Recurrent
from elman.tasks import scores
from elman.tasks.options import ClassificationOptions as Options
from elman.tasks.separate import SeparateSequences, csv_row, groups, held_out, padded
from elman.training.dropout import Dropout
from elman.training.run import Entries, Run

CONFIG: Entries = {"data": dict, "data.path": (str, type(None))}
CHUNK = 256  # sequences that are classified side by side
RARE = 2  # words that occur less often have no embedding of their own
WORD = re.compile(r"\w+|[^\w\s]")


class ClassificationModel(nn.Module):
    """Recurrent layers in both directions; the mean, the largest and the last of their outputs; and a linear layer.

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
        )
        self.dropout = Dropout(o.dropout)
        self.output = nn.Linear(6 * o.hidden_size, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.dropout(self.embedding(x))
        h, state = self.recurrent(x, lengths=lengths)  # (T, B, 2 H), zero past the end of a sequence
        states = state if isinstance(state, Tensor) else state[0]
        last = states[-2:].transpose(0, 1).flatten(1)  # (B, 2 H): each direction where it ends
        mean = h.sum(0) / lengths[:, None].to(h)
        past = torch.arange(len(h), device=h.device)[:, None] >= lengths  # (T, B)
        largest = h.masked_fill(past[..., None], -torch.inf).amax(0)
        return self.output(self.dropout(torch.cat([mean, largest, last], -1)))


class Reading(NamedTuple):
    """What was learned of the data besides weights: classes, and how a sequence is turned into numbers."""

    classes: list[str]
    mean: list[float]  # of each channel; empty for texts
    deviation: list[float]
    tokens: list[str]  # words or characters; token 0 stands for all others. Empty for numbers.

    @classmethod
    def learn(cls, every: Sequence[Labelled], options: Options) -> Reading:
        classes = sorted(
            {str(each.label) for each in every}, key=lambda c: (len(c), c) if c.isdigit() else (1 << 30, c)
        )
        if isinstance(every[0].content, str):
            counts = Counter(token for each in every for token in set(split(cast(str, each.content), options.unit)))
            least = RARE if options.unit == "words" else 1
            return cls(classes, [], [], sorted(token for token, count in counts.items() if count >= least))
        steps = np.concatenate([cast(NDArray[np.float32], each.content) for each in every]).astype(np.float64)
        deviation = np.where(steps.std(0) > 0, steps.std(0), 1.0)
        return cls(classes, steps.mean(0).tolist(), deviation.tolist(), [])

    def check(self, each: Labelled, path: Path) -> None:
        """Raises InputError if the sequence is not of the kind that was learned from."""
        if isinstance(each.content, str) != (not self.mean):
            kinds = ("a text", "numbers") if isinstance(each.content, str) else ("numbers", "texts")
            raise InputError(f"{path}: sequence {each.name} is {kinds[0]}, and the run was trained on {kinds[1]}")
        if not isinstance(each.content, str) and each.content.shape[1] != len(self.mean):
            raise InputError(
                f"{path}: sequence {each.name} has {each.content.shape[1]} channels, and the run was trained on {len(self.mean)}"
            )

    def save(self, directory: Path) -> None:
        content = json.dumps(self._asdict(), ensure_ascii=False, indent=1)
        write_atomically(directory / "vocabulary.json", content.encode())

    @classmethod
    def load(cls, directory: Path) -> Reading:
        path = directory / "vocabulary.json"
        content = read_json(path)
        try:
            found = cls(**content)
            if len(found.mean) != len(found.deviation) or not found.classes or bool(found.mean) == bool(found.tokens):
                raise ValueError("classes, channels and tokens do not fit each other")
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged: {error}; restore it or train again") from error
        return found


def split(text: str, unit: str) -> list[str]:
    """Returns the words of a text in lower case, and its signs; or its characters."""
    return WORD.findall(text.lower()) if unit == "words" else list(text)


class Classifier:
    """A model with what it knows of the data: what a run holds when it is trained."""

    def __init__(self, model: ClassificationModel, reading: Reading, options: Options):
        self.model, self.reading, self.options = model, reading, options
        self._token = {token: number for number, token in enumerate(reading.tokens, 1)}

    @torch.inference_mode()
    def logits(self, rows: Sequence[NDArray[Any]]) -> Tensor:
        """Returns logits (N, classes) of encoded sequences."""
        device, training = self.model.output.weight.device, self.model.training
        self.model.eval()
        found = torch.empty(len(rows), len(self.reading.classes))
        order = np.argsort([len(row) for row in rows], kind="stable")
        for begin in range(0, len(order), CHUNK):
            own = order[begin : begin + CHUNK]
            x, lengths = padded([rows[k] for k in own])
            found[torch.from_numpy(own)] = self.model(x.to(device), lengths.to(device)).float().cpu()
        self.model.train(training)
        return found

    def classify(self, contents: Sequence[NDArray[np.float32] | str]) -> tuple[list[str], NDArray[np.float32]]:
        """Returns the likeliest class of every sequence, and the probabilities (N, classes)."""
        rows = [self.encode(content) for content in contents]
        probabilities = self.logits(rows).softmax(-1)
        return [self.reading.classes[k] for k in probabilities.argmax(-1)], probabilities.numpy()

    def score(self, rows: Sequence[NDArray[Any]], labels: NDArray[np.int64]) -> tuple[dict[str, float], scores.Scores]:
        """Returns named scores of encoded sequences, and the table of counts. A label of -1 is wrong in any case."""
        logits = self.logits(rows)
        predicted, known = logits.argmax(-1).numpy(), np.flatnonzero(labels >= 0)
        counts = scores.counted(labels[known], predicted[known], len(self.reading.classes))
        nats = float(cross_entropy(logits[known], torch.from_numpy(labels[known]))) if len(known) else 0.0
        accuracy = float((predicted == labels).mean())
        return {"validation_nats": nats, "accuracy": accuracy, "macro_f1": counts.macro_f1}, counts

    def encode(self, content: NDArray[np.float32] | str) -> NDArray[Any]:
        """Returns numbers (T, channels) in deviations from the mean, or tokens (T,)."""
        if isinstance(content, str):
            return np.array([self._token.get(token, 0) for token in split(content, self.options.unit)] or [0])
        return ((content - np.array(self.reading.mean)) / np.array(self.reading.deviation)).astype(np.float32)

    def encode_all(self, every: Iterable[Labelled], path: Path) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
        number = {label: k for k, label in enumerate(self.reading.classes)}
        rows, labels = [], []
        for each in every:
            self.reading.check(each, path)
            rows.append(self.encode(each.content))
            labels.append(number.get(str(each.label), -1))
        return rows, np.array(labels, dtype=np.int64)

    def evaluate(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yields names and figures for a file whose sequences have labels."""
        bad = BadRows(self.options.skip_bad)
        rows, labels = self.encode_all(sequences(path, columns_of(self.options), bad=bad), path)
        if not rows:
            raise InputError(f"{path} has no sequence; give one at least, with its label")
        found, counts = self.score(rows, labels)
        yield "sequences", str(len(rows))
        if bad.count:
            yield "left out", f"{bad.count}, the first: {bad.first}"
        if (labels < 0).any():
            yield "unknown label", str(int((labels < 0).sum()))
        for name, value in found.items():
            yield name.replace("validation_nats", "nats_per_sequence").replace("_", " "), f"{value:.4f}"
        yield from counts.by_label(self.reading.classes, "sequences")

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence of a file: its class and the probability of every class."""
        classes, header = self.reading.classes, form not in (".jsonl", ".ndjson")
        for group in groups(
            sequences(path, columns_of(self.options), labelled=False, bad=BadRows(self.options.skip_bad)), CHUNK
        ):
            for each in group:
                self.reading.check(each, path)
            found, probabilities = self.classify([each.content for each in group])
            if header:
                yield csv_row(["sequence", "class", *(f"p_{name}" for name in classes)])
                header = False
            for each, name, row in zip(group, found, probabilities.tolist(), strict=True):
                if form in (".jsonl", ".ndjson"):
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
        self, classifier: Classifier, train: Sequence[Labelled], validation: Sequence[Labelled], path: Path | None
    ):
        """path: where the sequences come from; None for those that come along."""
        self.classifier, self.model, self.options, self.path = classifier, classifier.model, classifier.options, path
        o, where = self.options, path or Path(examples.LABELLED)
        self.rows, self.labels = classifier.encode_all(train, where)
        self.held_out, self.held_out_labels = classifier.encode_all(validation, where)
        self.lengths = np.array([len(row) for row in self.rows])
        self.score, self.score_unit = o.best_by, o.best_by.replace("_f1", " F1")
        digest = hashlib.sha256()
        for each in (*train, *validation):
            content = each.content.encode() if isinstance(each.content, str) else each.content.tobytes()
            digest.update(content + str(each.label).encode())
        self.digest = digest.hexdigest()
        counts = np.bincount(self.labels, minlength=len(classifier.reading.classes))
        weights = len(train) / np.maximum(1, counts) / len(counts)
        self.weights = torch.from_numpy(weights.astype(np.float32)) if o.balanced else None

    def anew(self, options: Options) -> Classification:
        """Returns the task of the same data, which is shared, with other options and a new model."""
        torch.manual_seed(options.seed)
        task = copy(self)
        task.classifier = _classifier(self.classifier.reading, options, str(self.model.output.weight.device))
        task.model, task.options = task.classifier.model, options
        return task

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        device = self.model.output.weight.device
        x, lengths = padded([self.rows[k] for k in own])
        if x.is_floating_point():
            x = x + self.options.noise * torch.randn_like(x)
        logits = self.model(x.to(device), lengths.to(device))
        target = torch.from_numpy(self.labels[own]).to(device)
        weights = None if self.weights is None else self.weights.to(device)
        return cross_entropy(logits, target, weights, label_smoothing=self.options.smoothing)

    def weight(self, own: NDArray[np.int64]) -> float | None:
        return None if self.weights is None else float(self.weights[torch.from_numpy(self.labels[own])].sum())

    def evaluate(self) -> dict[str, float]:
        return self.classifier.score(self.held_out, self.held_out_labels)[0]

    def about(self) -> dict[str, Any]:
        classes = len(self.classifier.reading.classes)
        usual = np.full(len(self.held_out_labels), np.bincount(self.labels, minlength=classes).argmax())
        known = self.held_out_labels >= 0
        guessed = scores.counted(self.held_out_labels[known], usual[known], classes)
        baseline = guessed.accuracy if self.score == "accuracy" else guessed.macro_f1
        data = {
            "path": None if self.path is None else str(self.path.resolve()),
            "train_sequences": len(self.rows),
            "validation_sequences": len(self.held_out),
        }
        return {"data": data, "baselines": {"largest class": baseline}}

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
        return [
            (
                "sequences",
                f"{self.path or examples.LABELLED}: {len(self.rows):,} to learn from, {len(self.held_out):,} held out; "
                f"{self.lengths.min()} to {self.lengths.max()} steps, {what}",
            ),
            ("classes", f"{len(reading.classes)}: {shown}{' ...' if len(reading.classes) > 12 else ''}"),
        ]

    def result(self, row: Mapping[str, str]) -> str:
        accuracy, f1, nats = (float(row[name]) for name in ("accuracy", "macro_f1", "validation_nats"))
        return f"accuracy {accuracy:.4f}, macro F1 {f1:.4f}, {nats:.4f} nats per sequence"

    def draw(self, directory: Path) -> list[Path]:
        """Draws the table of counts on held-out sequences."""
        from elman import charts

        _, counts = self.classifier.score(self.held_out, self.held_out_labels)
        path = directory / "confusion.png"
        charts.save(charts.confusion(counts.counts, self.classifier.reading.classes, "class", "sequences"), path)
        return [path]


def columns_of(options: Options) -> Columns:
    return Columns(options.label, options.sequence, options.text, options.column_list)


def read(path: Path | None, options: Options, bad: BadRows) -> tuple[list[Labelled], list[Labelled]]:
    """Returns the sequences to learn from and those held out: of each class the same share."""
    o = options
    columns = columns_of(o)
    if path is None:
        every = [Labelled(font, steps, digit) for steps, digit, font in examples.digits()]
    else:
        every = list(sequences(path, columns, bad=bad))
    if o.validation is not None:
        train, validation = every, list(sequences(Path(o.validation), columns, bad=bad))
    elif path is None:  # fonts that were never seen
        fonts = sorted({each.name for each in every})
        apart = set(fonts[:: max(2, round(1 / o.held_out))])
        train = [each for each in every if each.name not in apart]
        validation = [each for each in every if each.name in apart]
    else:
        places: dict[str | None, list[int]] = {}
        for place, each in enumerate(every):
            places.setdefault(each.label, []).append(place)
        first, second = [], []
        for own in places.values():
            if len(own) < 2:
                first += own
                continue
            a, b = held_out(len(own), o.held_out, o.seed)
            first, second = first + [own[k] for k in a], second + [own[k] for k in b]
        train, validation = [every[k] for k in sorted(first)], [every[k] for k in sorted(second)]
    if not train or not validation:
        raise InputError(
            f"{path or examples.LABELLED} leaves {len(train)} sequences to learn from and {len(validation)} to judge by; give two of each class at least"
        )
    if len({each.label for each in train}) < 2:
        raise InputError(f"{path} has one class only, {train[0].label!r}; give sequences of two classes at least")
    return train, validation


def begin(path: Path | None, options: Options, device: str, bad: BadRows) -> Classification:
    """Returns the task of learning from a file, with a new model."""
    train, validation = read(path, options, bad)
    reading = Reading.learn(train, options)
    torch.manual_seed(options.seed)
    return Classification(_classifier(reading, options, device), train, validation, path)


def resume(run: Run, path: Path | None, options: Options, device: str) -> Classification:
    """Returns the task of a run, with its data read again and a model still to be filled."""
    train, validation = read(path, options, BadRows(options.skip_bad))
    return Classification(_classifier(Reading.load(run.directory), options, device), train, validation, path)


def load(directory: Path, device: str = "cpu") -> Classifier:
    """Returns the classifier of a run, as it did best on held-out sequences."""
    run = Run(directory)
    options, _ = run.options(Options, CONFIG)
    classifier = _classifier(Reading.load(directory), options, device)
    run.fill(classifier.model)
    classifier.model.eval()
    return classifier


def _classifier(reading: Reading, options: Options, device: str) -> Classifier:
    tokens = len(reading.tokens) + 1 if reading.tokens else 0
    model = ClassificationModel(len(reading.mean), tokens, len(reading.classes), options)
    return Classifier(model.to(device), reading, options)
