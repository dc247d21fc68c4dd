"""Scores of labels and of forecasts, against sums written out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from elman.tasks import scores, separate
from elman.tasks.forecasting import naive
from elman.tasks.scores import segment_f1
from elman.tasks.separate import batches_of, held_out
from elman.tasks.tallies import Units
from elman.tasks.values import pinball


def mean_f1(truth: NDArray[np.int64], guess: NDArray[np.int64], labels: int, unknown: int = 0) -> float:
    return scores.macro_f1(truth, guess, labels, unknown, Units(np.arange(len(truth)), len(truth))).value


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_what_they_are_called(seed: int):
    random = np.random.default_rng(seed)
    truth, guess = random.integers(0, 4, (2, 60))
    found = scores.counted(truth, guess, 5)  # the last label never occurs
    every = []
    for k in range(4):
        right, called, present = ((truth == k) & (guess == k)).sum(), (guess == k).sum(), (truth == k).sum()
        p, r = right / called, right / present
        assert found.precision[k] == pytest.approx(p)
        assert found.recall[k] == pytest.approx(r)
        assert found.f1[k] == pytest.approx(2 * p * r / (p + r) if right else 0)
        every.append(found.f1[k])
        assert found.counts[k].tolist() == [((truth == k) & (guess == j)).sum() for j in range(5)]
    assert mean_f1(truth, guess, 5) == pytest.approx(np.mean(every))


def test_labels_that_are_none_of_those_count_as_wrong_where_they_are_called_one():
    truth, guess = np.array([0, 0, 1, -1, -1, -1]), np.array([0, 0, 1, 0, 0, 2])
    found = scores.counted(truth, guess, 4)
    assert found.precision.tolist() == [2 / 4, 1, 0, 0]
    assert found.recall.tolist() == [1, 1, 0, 0]
    assert found.f1.tolist() == [4 / 6, 1, 0, 0]
    # The last one is not there at all, and the two unknown ones are never right.
    assert mean_f1(truth, guess, 4, 2) == pytest.approx((4 / 6 + 1 + 0 + 0 + 0) / 5)
    assert found.counts.sum(1).tolist() == [2, 1, 0, 0]


def test_macro_f1_by_its_definition():
    """The mean over every label in the truth or in the predictions, as scikit-learn has it."""
    assert mean_f1(np.array([0, 1, -1]), np.array([0, 1, 2]), 3, 1) == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert mean_f1(np.array([-1, -1]), np.array([0, 0]), 3, 2) == 0
    random = np.random.default_rng(0)
    truth, guess = random.integers(0, 7, 40), random.integers(0, 4, 40)  # the training has labels 0 to 3 of them
    unknown = len(set(truth.tolist()) - {0, 1, 2, 3})
    found = mean_f1(np.where(truth < 4, truth, -1), guess, 4, unknown)
    assert found == pytest.approx(macro_f1(truth.tolist(), guess.tolist()))


def macro_f1(truth: Sequence[object], guess: Sequence[object]) -> float:
    every = []
    for label in {*truth, *guess}:
        right = sum(a == b == label for a, b in zip(truth, guess, strict=True))
        every.append(2 * right / (truth.count(label) + guess.count(label)))
    return sum(every) / len(every)


# As CoNLL's own evaluation reads them.
ENTITIES = {
    "O O": set(),
    "B-A I-A O": {("A", 0, 2)},
    "B-A B-A": {("A", 0, 1), ("A", 1, 2)},
    "I-A I-A": {("A", 0, 2)},
    "B-A I-B": {("A", 0, 1), ("B", 1, 2)},
    "O I-B B-B": {("B", 1, 2), ("B", 2, 3)},
    "S-A B-B E-B": {("A", 0, 1), ("B", 1, 3)},
    "B-A O I-A": {("A", 0, 1), ("A", 2, 3)},
    "I-A O B-B I-B": {("A", 0, 1), ("B", 2, 4)},
}


@pytest.mark.parametrize("tags", ENTITIES)
def test_entities_of_a_sentence(tags: str):
    assert scores.entities(tags.split()) == ENTITIES[tags]


def test_an_entity_is_right_as_a_whole_or_not_at_all():
    truth = [["B-A", "I-A", "O", "B-B"], ["B-A"]]
    guess = [["B-A", "O", "O", "B-B"], ["B-B"]]  # one of three found is right; three are present

    def f1(truth: list[list[str]], guess: list[list[str]]) -> float:
        counts = np.array([scores.entity_counts(*pair) for pair in zip(truth, guess, strict=True)])
        return scores.entity_f1(counts, Units(np.arange(len(truth)), len(truth))).value

    assert scores.entity_counts(truth[0], guess[0]) == (1, 2, 2)
    assert f1(truth, guess) == pytest.approx(2 * 1 / (3 + 3))
    assert f1(truth, truth) == 1.0
    assert f1([["O"]], [["O"]]) == 0.0


def test_which_tags_mark_entities():
    assert scores.is_bio(["O", "B-PER", "I-PER"])
    assert not scores.is_bio(["O"])
    assert not scores.is_bio(["O", "B-PER", "NOUN"])


@pytest.mark.parametrize("count", [1, 31, 32, 33, 5000])
def test_every_sequence_is_in_one_batch_of_an_epoch(count: int):
    lengths = np.random.default_rng(0).integers(1, 100, count)
    epochs = [list(batches_of(lengths, 32, 7, epoch)) for epoch in (0, 0, 1)]
    for found in epochs:
        assert sorted(np.concatenate(found).tolist()) == list(range(count))
        assert len(found) == -(-count // 32)
        assert max(map(len, found)) <= 32
    assert all((a == b).all() for a, b in zip(epochs[0], epochs[1], strict=True))
    if count == 5000:
        assert [a.tolist() for a in epochs[0]] != [a.tolist() for a in epochs[2]]
        padding = [lengths[own].max() * len(own) / lengths[own].sum() for own in epochs[0]]
        assert np.mean(padding) < 1.15  # at random it is 1.9


@pytest.mark.parametrize("count", [100, 101, 1003])
def test_very_many_sequences_are_shuffled_in_shares(monkeypatch: pytest.MonkeyPatch, count: int):
    monkeypatch.setattr(separate, "SHUFFLED", 100)
    lengths = np.random.default_rng(0).integers(1, 100, count)
    found = list(batches_of(lengths, 8, 7, 0))
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    task = separate.SeparateSequences()
    task.lengths, task.options = lengths, SimpleNamespace(batch_size=8, seed=7)
    assert task.steps_per_epoch == len(found)
    assert len(list(task.batches(0, 3))) == len(found) - 3
    if count == 1003:  # each share lies all over the data
        first = np.concatenate(found[: len(found) // 11])
        assert np.histogram(first, 4, (0, count))[0].min() > 15


def test_moments_of_blocks():
    x = 1e6 + np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    x[:, 2] = 0.1
    mean, deviation = separate.moments(np.split(x, [1, 2, 500]), 3)
    assert mean == pytest.approx(x.astype(np.float64).mean(0), rel=1e-14)
    assert deviation == pytest.approx([*x[:, :2].astype(np.float64).std(0), 1], rel=1e-8)
    assert [each.tolist() for each in separate.moments([], 2)] == [[0, 0], [1, 1]]


def test_what_is_held_out():
    train, validation = held_out(50, 0.1, 3)
    assert sorted([*train, *validation]) == list(range(50))
    assert len(validation) == 5
    assert (held_out(50, 0.1, 4)[1] != validation).any()
    assert len(held_out(3, 0.001, 0)[1]) == 1


def test_naive_forecasts_repeat_the_past():
    past = torch.arange(10.0)[:, None]
    assert naive(past, 4, 1)[:, 0].tolist() == [9, 9, 9, 9]
    assert naive(past, 7, 3)[:, 0].tolist() == [7, 8, 9, 7, 8, 9, 7]
    assert naive(past, 2, 3)[:, 0].tolist() == [7, 8]


def test_pinball_is_least_at_the_quantile():
    truth = torch.from_numpy(np.random.default_rng(0).normal(size=2001))
    values = torch.linspace(-3, 3, 601)
    for q in (0.1, 0.5, 0.8):
        at = [float(pinball(v.expand(2001)[:, None], truth, [q]).mean()) for v in values]
        assert float(values[int(np.argmin(at))]) == pytest.approx(float(truth.quantile(q)), abs=0.011)
    one = pinball(torch.tensor([[1.0, 3.0]]), torch.tensor([2.0]), [0.1, 0.9]).mean()
    assert float(one) == pytest.approx((0.1 * 1 + 0.1 * 1) / 2)


def test_a_few_unknown_labels_are_named():
    assert scores.unknown(Counter("abbccc")) == "6, counted as mistakes: 'c', 'b', 'a'"
    many = Counter({str(k): 1000 - k for k in range(9)})
    assert scores.unknown(many, " tags") == "8,964 tags, counted as mistakes: '0', '1', '2', '3', '4', ..."


def f1_of_segments(truth: NDArray[np.int64], guess: NDArray[np.int64], sequence: NDArray[np.int64]) -> float:
    return segment_f1(truth, guess, sequence, Units(sequence, int(sequence.max()) + 1)).value


def test_segments_by_hand():
    truth, guess = np.array([list(map(int, row)) for row in ("0001112222", "0011112212")])
    # 0: two of three; 1: three of four; 2 is cut in two, of which neither has more than half; and 1 in between.
    assert f1_of_segments(truth, guess, np.zeros(10, int)) == pytest.approx(2 * 2 / (3 + 5))
    assert f1_of_segments(truth, truth, np.zeros(10, int)) == 1
    # Where another sequence begins, so does a segment.
    sequence = np.array([0] * 8 + [1] * 2)
    assert f1_of_segments(truth, guess, sequence) == pytest.approx(2 * 3 / (4 + 5))


def segments(labels: NDArray[np.int64], sequence: NDArray[np.int64]) -> list[tuple[int, set[int]]]:
    found: list[tuple[int, set[int]]] = []
    for step, label in enumerate(labels):
        if step and (sequence[step], label) == (sequence[step - 1], labels[step - 1]):
            found[-1][1].add(step)
        else:
            found.append((int(label), {step}))
    return found


def test_segments_as_the_definition_has_them():
    random = np.random.default_rng(0)
    for _ in range(200):
        n = int(random.integers(1, 30))
        sequence = np.sort(random.integers(0, 3, n))
        truth, guess = (np.repeat(random.integers(0, 3, n), random.integers(1, 4, n))[:n] for _ in range(2))
        true, said = segments(truth, sequence), segments(guess, sequence)
        right = sum(any(a == b and len(x & y) > len(x | y) / 2 for a, x in true) for b, y in said)
        assert f1_of_segments(truth, guess, sequence) == pytest.approx(2 * right / (len(true) + len(said)))
