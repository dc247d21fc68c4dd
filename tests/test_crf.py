"""Conditional random fields: against sums over all sequences of tags, in ONNX files, and in taggers."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import elman
import elman.onnx
from elman import CRF
from elman.datasets.conll import Sentence
from elman.errors import InputError
from elman.explain import directions
from elman.onnx.proof import Share, _Sums
from elman.tasks import tagging
from elman.training.run import MODEL, Run
from forks import Child, Forks
from tiny_runs import elman as command
from tiny_runs import lines

LENGTHS = (4, 1, 3, 0)
T, B, K = 4, len(LENGTHS), 3


def drawn(dtype: torch.dtype = torch.float64, **options: Any) -> tuple[CRF, Tensor, Tensor]:
    """A CRF, scores (T, B, K) and tags (T, B), of which some are unknown. Past the ends, nothing is a number or a tag."""
    random = torch.Generator().manual_seed(0)
    crf = CRF(K, dtype=dtype, **options)
    for parameter in crf.parameters():
        nn.init.normal_(parameter, generator=random)
    scores = 2 * torch.randn(T, B, K, dtype=dtype, generator=random)
    tags = torch.randint(0, K, (T, B), generator=random)
    tags[1, 0] = tags[0, 1] = -1
    for b, length in enumerate(LENGTHS):
        scores[length:, b], tags[length:, b] = torch.nan, 99
    return crf, scores, tags


def every_sequence(crf: CRF, scores: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Every sequence of tags of scores (T, K) without padding, and what it scores: the equation, written out."""
    for y in product(range(K), repeat=len(scores)):
        own = crf.first[y[0]] + crf.last[y[-1]] + sum(scores[t, k] for t, k in enumerate(y))
        yield y, own + sum(crf.transitions[a, b] for a, b in pairwise(y))


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_it_is_the_sum_over_all_sequences_of_tags(engine: str, batch_first: bool) -> None:
    crf, scores, tags = drawn(batch_first=batch_first)
    given = (scores.transpose(0, 1), tags.T) if batch_first else (scores, tags)
    with elman.use_engine(engine):
        told, likely, best = crf(given[0], LENGTHS), crf.log_likelihood(*given, LENGTHS), crf.decode(given[0], LENGTHS)
        before, after = crf.messages(given[0], LENGTHS)
    if batch_first:
        told, best, before, after = (each.transpose(0, 1) for each in (told, best, before, after))
    for b, length in enumerate(LENGTHS):
        assert not told[length:, b].any()
        assert (best[length:, b] == -1).all()
        if length == 0:
            assert likely[b] == 0
            continue
        own = scores[:length, b]
        paths = dict(every_sequence(crf, own))
        total = torch.stack(list(paths.values())).logsumexp(0)
        for t in range(length):
            for k in range(K):
                chance = torch.stack([score for y, score in paths.items() if y[t] == k]).logsumexp(0) - total
                assert told[t, b, k].item() == pytest.approx(chance.item(), abs=1e-12)
        fits = [
            y for y in paths if all(known in (-1, k) for known, k in zip(tags[:length, b].tolist(), y, strict=True))
        ]
        exact = torch.stack([paths[y] for y in fits]).logsumexp(0) - total
        assert likely[b].item() == pytest.approx(exact.item(), abs=1e-12)
        assert tuple(best[:length, b].tolist()) == max(paths, key=paths.__getitem__)
        sums = (before[:length, b] + own + after[:length, b]).log_softmax(-1)
        assert torch.allclose(sums, told[:length, b], atol=1e-12, rtol=0)


def test_the_likeliest_tags_of_many() -> None:
    for seed in range(25):
        torch.manual_seed(seed)
        crf, scores = CRF(K), torch.randn(5, 2, K)
        for parameter in crf.parameters():
            nn.init.normal_(parameter, std=2)
        for b, length in enumerate((5, 3)):
            best = crf.decode(scores, [5, 3])[:length, b]
            paths = dict(every_sequence(crf, scores[:length, b]))
            assert tuple(best.tolist()) == max(paths, key=paths.__getitem__)


def test_gradients() -> None:
    """Of scores and parameters, by finite differences; and none is what stands past an end."""
    crf, scores, tags = drawn()
    inside = torch.tensor(LENGTHS) > torch.arange(T)[:, None]
    own = scores.where(inside[..., None], 0).requires_grad_()
    names, values = zip(*crf.named_parameters(), strict=True)
    weights = torch.randn(T, B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def of(scores: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        padded = scores.where(inside[..., None], torch.nan)
        given = dict(zip((f"crf.{name}" for name in names), parameters, strict=True))

        def call(name: str, *others: Any) -> Any:
            return torch.func.functional_call(_Method(crf, name), given, others)

        return call("log_likelihood", padded, tags, LENGTHS), (call("forward", padded, LENGTHS) * weights).sum()

    with elman.use_engine("cpu"):
        assert torch.autograd.gradcheck(of, (own, *values))
    padded = scores.clone().requires_grad_()
    (crf.log_likelihood(padded, tags, LENGTHS).sum() + crf(padded, LENGTHS).square().sum()).backward()
    assert padded.grad is not None
    assert not padded.grad[~inside].any()
    assert padded.grad[inside].all()


class _Method(nn.Module):
    def __init__(self, crf: CRF, name: str):
        super().__init__()
        self.crf, self.name = crf, name

    def forward(self, *given: Any) -> Any:
        return getattr(self.crf, self.name)(*given)


def test_without_transitions_tags_do_not_depend_on_each_other() -> None:
    scores = torch.randn(7, 2, 5)
    crf = CRF(5)
    tags = torch.randint(0, 5, (7, 2))
    alone = scores.log_softmax(-1)
    assert torch.allclose(crf(scores), alone, atol=1e-6)
    assert crf.decode(scores).equal(scores.argmax(-1))
    assert torch.allclose(crf.log_likelihood(scores, tags), alone.gather(-1, tags[..., None]).sum((0, 2)), atol=1e-5)


def test_half_types_and_autocast_are_computed_in_float32() -> None:
    crf, scores, tags = drawn(torch.float32)
    tags = tags.masked_fill(tags == 99, 0)
    for dtype in (torch.bfloat16, torch.float16):
        half = scores.to(dtype)
        for own in (crf, pickle.loads(pickle.dumps(crf))):
            assert own(half, LENGTHS).equal(crf(half.float(), LENGTHS))
        with torch.autocast("cpu", torch.bfloat16):
            assert crf.log_likelihood(half, tags, LENGTHS).equal(crf.log_likelihood(half.float(), tags, LENGTHS))
        assert crf.decode(half, LENGTHS).equal(crf.decode(half.float(), LENGTHS))
        own = copy.deepcopy(crf).to(dtype)
        assert own(half, LENGTHS).dtype == torch.float32
        assert own(half, LENGTHS).equal(own.float()(half, LENGTHS))


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_what_is_impossible_or_certain_is_told_exactly_and_has_finite_gradients(engine: str) -> None:
    """Beyond the numbers whose exponential is one of float32: pairs that are forbidden, or certain; first and last tags, and scores."""
    keeps, violates = torch.tensor([[1, 1], [2, 1], [2, 2], [2, 0]]), torch.tensor([[0, 0], [1, 0], [1, 1], [0, 0]])
    forbidden, certain, far = torch.zeros(3, 3), torch.zeros(3, 3), torch.zeros(3, 3)
    forbidden[0, 1], certain[0, 0] = -1000, 120
    far[:2, :2] = torch.tensor([[50.0, -50], [-60, -60]])
    edges = torch.tensor([0.0, -300, 0])
    low = torch.tensor([0.0, -300, 5]).repeat(4, 2, 1)
    sure = torch.tensor([0.0, 200, -200]).repeat(4, 2, 1)
    for transitions, first, scores, tags in (
        (forbidden, torch.zeros(3), torch.zeros(4, 2, 3), keeps),
        (forbidden, torch.zeros(3), torch.zeros(4, 2, 3), violates),
        (forbidden.where(forbidden == 0, -torch.inf), torch.zeros(3), low, keeps),
        (certain, torch.zeros(3), torch.zeros(4, 2, 3), keeps),
        (far, edges, sure, violates),
        (170 + certain, edges, low, keeps),
        (60 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0)), edges, low, violates),
    ):
        crf = CRF(3)
        with torch.no_grad():
            for parameter, value in zip(crf.parameters(), (transitions, first, edges.flip(0)), strict=True):
                parameter.copy_(value)
        exact = copy.deepcopy(crf).double()
        paths = dict(every_sequence(exact, scores[:, 0].double()))
        total, own = torch.stack(list(paths.values())).logsumexp(0), scores.clone().requires_grad_()
        with elman.use_engine(engine):
            found, told = crf.log_likelihood(own, tags), crf(own).exp()
            (found.sum() + told[0, 0, 0]).backward()
        assert found[0].item() == pytest.approx((paths[tuple(tags[:, 0].tolist())] - total).item(), rel=1e-5, abs=1e-4)
        for t in range(4):
            chances = [sum((v - total).exp().item() for y, v in paths.items() if y[t] == k) for k in range(3)]
            assert told[t, 0].tolist() == pytest.approx(chances, abs=1e-5)
        assert own.grad is not None
        assert own.grad.isfinite().all()
        assert all(each.grad is not None and each.grad.isfinite().all() for each in crf.parameters())


def test_ways_to_the_end_lose_no_digits() -> None:
    """Of float32, after many steps whose tags differ by little."""
    torch.manual_seed(0)
    crf, scores = CRF(20), 10 + 0.05 * torch.randn(1000, 10, 20)
    nn.init.normal_(crf.transitions, std=0.05)
    best = crf.decode(scores)
    assert best.equal(crf.double().decode(scores.double()))


def test_on_the_meta_device() -> None:
    crf, scores = CRF(3, device="meta"), torch.empty(4, 2, 3, device="meta")
    assert crf(scores, torch.ones(2, dtype=torch.long, device="meta")).shape == scores.shape


def test_it_learns_the_chain_that_drew_the_tags() -> None:
    """Also if half of the tags are not known, which are then whatever the others say."""
    random = np.random.default_rng(0)
    chain, start = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]]), np.array([0.7, 0.2, 0.1])
    tags = np.zeros((12, 600), np.int64)
    tags[0] = random.choice(3, 600, p=start)
    for t in range(1, 12):
        tags[t] = [random.choice(3, p=chain[k]) for k in tags[t - 1]]
    known = torch.from_numpy(np.where(random.random(tags.shape) < 0.5, tags, -1))
    crf, scores = CRF(3), torch.zeros(12, 600, 3)
    optimizer = torch.optim.LBFGS(crf.parameters(), max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -crf.log_likelihood(scores, known).mean()
        loss.backward()
        return loss

    optimizer.step(closure)

    def chance(*own: int) -> float:
        """The probability of these tags from the sixth step on."""
        tags = torch.full((12, 1), -1)
        tags[5 : 5 + len(own), 0] = torch.tensor(own)
        return float(crf.log_likelihood(torch.zeros(12, 1, 3), tags).detach().exp())

    pairs = np.array([[chance(a, b) / chance(a) for b in range(3)] for a in range(3)])
    assert pairs == pytest.approx(chain, abs=0.06)


class _All(nn.Module):
    def __init__(self, crf: CRF):
        super().__init__()
        self.crf = crf

    def forward(self, scores: Tensor, tags: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        return (
            self.crf(scores, lengths),
            self.crf.log_likelihood(scores, tags, lengths),
            self.crf.decode(scores, lengths),
        )


LOADED = """
import sys, torch, elman.operators
case, result = torch.load(sys.argv[2])
torch.testing.assert_close(torch.export.load(sys.argv[1]).module()(*case), result)
print("the same")
"""


def test_one_graph_for_all_sizes_which_another_process_loads(tmp_path: Path, forks: Forks) -> None:
    crf, scores, tags = drawn(torch.float32)
    case = scores, tags.masked_fill(tags == 99, 0), torch.tensor(LENGTHS)
    whole = _All(crf)
    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    for mine, other in zip(compiled(*case), whole(*case), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)
    free = torch.export.Dim.DYNAMIC
    shapes = {0: free, 1: free}, {0: free, 1: free}, {0: free}
    torch.export.save(torch.export.export(whole, case, dynamic_shapes=shapes), tmp_path / "crf.pt2")
    fewer = case[0][:3, :3], case[1][:3, :3], case[2][:3].clamp(max=3)
    result = tuple(each.detach() for each in whole(*fewer))
    torch.save((fewer, result), tmp_path / "case.pt")
    (done,) = forks.run(Child(LOADED, (str(tmp_path / "crf.pt2"), str(tmp_path / "case.pt"))))
    assert "the same" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c, s, y: CRF(0), ValueError, "num_tags must be greater than zero, got 0"),
        (lambda c, s, y: CRF(3, batch_first=1), TypeError, "batch_first should be of type bool, got: int"),  # pyright: ignore[reportArgumentType]
        (lambda c, s, y: CRF(3, dtype=torch.complex64), TypeError, "dtype must be real, got torch.complex64"),
        (lambda c, s, y: c.log_likelihood(s, y.to(torch.complex64)), TypeError, "tags are of torch.complex64"),
        (lambda c, s, y: c(s[0]), ValueError, r"scores must be a tensor \(T, B, 3\), got \(4, 3\)"),
        (lambda c, s, y: c([1]), ValueError, r"scores must be a tensor \(T, B, 3\), got list"),
        (lambda c, s, y: CRF(3, batch_first=True)(s[..., :2]), ValueError, r"\(B, T, 3\), got \(4, 4, 2\)"),
        (lambda c, s, y: c(s[:0]), ValueError, r"at least one step, got \(0, 4, 3\)"),
        (lambda c, s, y: c(s.long()), TypeError, r"scores are of torch.int64 .* give scores.float\(\)"),
        (lambda c, s, y: c(s.to("meta")), RuntimeError, "scores are on meta but the parameters on cpu"),
        (lambda c, s, y: c(s, [1, 2]), RuntimeError, r"lengths is \(2,\) but must be \(4,\)"),
        (lambda c, s, y: c(s, [1, 2, 3, 5]), RuntimeError, "lengths holds 5, but the input has 4 steps"),
        (lambda c, s, y: c(s, torch.ones(4, 4).long()), RuntimeError, r"if it is a mask, give its sum over time: mask.sum\(0\)"),
        (lambda c, s, y: c.log_likelihood(s, y[:2]), ValueError, r"tags are \(2, 4\) but must be \(4, 4\)"),
        (lambda c, s, y: c.log_likelihood(s, y.float()), TypeError, "tags are of torch.float32 but must be whole numbers"),
        (lambda c, s, y: c.log_likelihood(s, [0]), TypeError, "tags are a list but must be whole numbers in a tensor"),
        (lambda c, s, y: c.log_likelihood(s, y.clamp(max=4) + 3), ValueError, "tags hold 7, but must be from 0 to 2, or -1"),
        (lambda c, s, y: c.log_likelihood(s, y * 0 - 2), ValueError, "tags hold -2, but must be from 0 to 2, or -1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call: Any, error: type[Exception], message: str) -> None:
    crf, scores, tags = drawn()
    with pytest.raises(error, match=message):
        call(crf, scores.nan_to_num(), tags)


def test_no_row_and_one_step() -> None:
    crf = CRF(3)
    assert crf(torch.zeros(4, 0, 3)).shape == (4, 0, 3)
    assert crf.decode(torch.zeros(4, 0, 3)).shape == (4, 0)
    assert crf.log_likelihood(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int32)).tolist() == pytest.approx(
        [-np.log(3)] * 2
    )


class _Whole(nn.Module):
    def __init__(self, crf: CRF):
        super().__init__()
        self.crf = crf

    def forward(self, scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.crf(scores, lengths), self.crf.decode(scores, lengths)


@pytest.mark.filterwarnings("ignore")  # those of the exporter
def test_onnx_runtime_says_the_same(tmp_path: Path) -> None:
    """By plain `torch.onnx.export`, for any number of steps and rows; and with products in integers, of which it has none."""
    crf = drawn(torch.float32)[0]
    with torch.no_grad():
        crf.transitions.mul_(4)
    whole, free = _Whole(crf).eval(), torch.export.Dim.DYNAMIC
    shapes = {0: free, 1: free}, {0: free}
    args = torch.zeros(3, 2, K), torch.tensor([3, 2])
    torch.onnx.export(whole, args, tmp_path / "crf.onnx", dynamo=True, dynamic_shapes=shapes, verbose=False)
    elman.onnx.export(whole, tmp_path / "small.onnx", args, dynamic_shapes=shapes, int8=True)
    random = torch.Generator().manual_seed(0)
    for name in ("crf.onnx", "small.onnx"):
        opened = onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        names = [each.name for each in opened.get_inputs()]
        for steps, rows in ((1, 1), (9, 4), (4, 1)):
            scores = 2 * torch.randn(steps, rows, K, generator=random)
            lengths = torch.randint(0, steps + 1, (rows,), generator=random)
            lengths[0] = steps
            told, best = opened.run(None, dict(zip(names, (scores.numpy(), lengths.numpy()), strict=True)))
            assert torch.allclose(torch.from_numpy(told), crf(scores, lengths), atol=1e-4)
            assert torch.from_numpy(best).equal(crf.decode(scores, lengths))


# Taggers

TAGS = {"the": "O", "old": "O", "cat": "B-A", "sat": "I-A", "mat": "I-B", "dog": "B-B"}
SMALL = (
    "--hidden-size",
    4,
    "--word-size",
    4,
    "--character-size",
    3,
    "--spelling-size",
    3,
    "--num-layers",
    1,
    "--batch-size",
    8,
)


def written(path: Path, marks: bool = True) -> Path:
    """Words and tags, of which some mark entities where no other may stand before them."""
    random = np.random.default_rng(0)
    sentences = [random.choice([*TAGS], random.integers(1, 9)) for _ in range(30)]
    path.write_text("\n".join(lines(*(f"{w}\t{TAGS[w] if marks else w[0]}" for w in each)) for each in sentences))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagger with a CRF whose parameters are drawn at random, except that I-B never follows O."""
    d = tmp_path_factory.mktemp("crf")
    file = written(d / "words.txt")
    outcome = command("train", "tag", file, "--run", d / "run", "--epochs", 1, *SMALL, "--crf")
    assert outcome.status == 0, outcome.err
    trained, opened = tagging.load(d / "run"), Run(d / "run")
    with torch.no_grad():
        for parameter in trained.model.parameters():
            nn.init.normal_(parameter, std=0.7, generator=torch.Generator().manual_seed(parameter.numel()))
        assert trained.model.crf is not None
        names = trained.vocabulary.tags
        trained.model.crf.transitions[names.index("O"), names.index("I-B")] = -30
    opened.save_tensors(MODEL, trained.model.state_dict(), {"step": 0})
    return d / "run"


def test_tags_that_mark_entities_are_learned_together(tmp_path: Path, run: Path) -> None:
    """And others are not, unless it is asked for. A run of an earlier version did not."""
    assert json.loads((run / "config.json").read_text())["options"]["crf"] is True
    assert tagging.load(run).model.crf is not None
    marks, others = written(tmp_path / "marks.txt"), written(tmp_path / "others.txt", marks=False)
    config = tmp_path / "run" / "config.json"
    for file, given, expected in ((others, [], False), (marks, [], True), (marks, ["--no-crf"], False)):
        own = "--run", tmp_path / "run", "--overwrite", "--epochs", 1, *SMALL, *given
        outcome = command("train", "tag", file, *own)
        assert outcome.status == 0, outcome.err
        assert ("a conditional random field chooses" in outcome.err) is expected
        assert json.loads(config.read_text())["options"]["crf"] is expected
        assert (tagging.load(tmp_path / "run").model.crf is not None) is expected
    content = json.loads(config.read_text())
    del content["options"]["crf"]
    config.write_text(json.dumps(content))
    assert tagging.load(tmp_path / "run").model.crf is None
    assert json.loads(config.read_text())["options"].get("crf") is None
    again = command("train", "tag", marks, "--start-from", tmp_path / "run", "--run", tmp_path / "more", "--epochs", 1)
    assert again.status == 0, again.err
    assert tagging.load(tmp_path / "more").model.crf is None
    assert json.loads((tmp_path / "more" / "config.json").read_text())["options"]["crf"] is False
    refused = command("train", "tag", marks, "--start-from", run, "--run", tmp_path / "no", "--epochs", 1, "--no-crf")
    assert refused.status == 2
    assert "--crf cannot be given" in refused.err


def test_the_loss_is_that_of_all_tags_together(tmp_path: Path, run: Path) -> None:
    trained = tagging.load(run)
    found, train, _ = trained.read_again()
    task = tagging.Tagging(trained, found, train, train, None)
    task.hide.zero_()
    trained.model.eval()
    own = np.arange(5)
    encoded, crf = task.encoded, trained.model.crf
    assert crf is not None
    batch, tags = encoded.batch(train[own]), encoded.truth(train[own])
    scores = trained.model.scores(**batch)
    expected = -sum(
        crf.log_likelihood(scores[:n, k : k + 1], tags[:n, k : k + 1]).item() for k, n in enumerate(batch["lengths"])
    )
    assert task.loss(own).item() == pytest.approx(expected / int(batch["lengths"].sum()), rel=1e-5)


def test_tags_are_the_likeliest_together_and_nats_those_of_each(tmp_path: Path, run: Path) -> None:
    trained = tagging.load(run)
    found, *_ = trained.read_again()
    encoded, crf, names = tagging.Encoded(found, trained.vocabulary), trained.model.crf, trained.vocabulary.tags
    assert crf is not None
    apart = differ = 0
    for guess in trained.guesses(encoded):
        batch, truth = encoded.batch([guess.place]), encoded.truth([guess.place])[:, 0]
        scores = trained.model.scores(**batch)
        assert guess.tags.tolist() == crf.decode(scores)[:, 0].tolist()
        assert (
            torch.from_numpy(guess.nats).float().allclose(-crf(scores)[torch.arange(len(truth)), 0, truth], atol=1e-5)
        )
        told = [names[k] for k in guess.tags]
        assert ("O", "I-B") not in pairwise(told)
        alone = [names[k] for k in scores[:, 0].argmax(-1).tolist()]
        apart += sum(pair == ("O", "I-B") for pair in pairwise(alone))
        differ += int((crf(scores)[:, 0].argmax(-1) != torch.from_numpy(guess.tags)).sum())
    assert apart > 0  # if each word had its own tag
    assert differ > 0  # from those that are likeliest whatever the others are


def test_an_exported_tagger_has_it_onnx(tmp_path: Path, run: Path) -> None:
    """In floating point and in integers, in which the products of probabilities stay what they are."""
    for name, options in (("whole.onnx", ()), ("small.onnx", ("--int8",))):
        exported = command("export", run, tmp_path / name, *options)
        assert exported.status == 0, exported.err
        assert re.search(r"^tags        the same( but for 0\.0\S+ of them)?$", exported.out, re.MULTILINE)
    opened = onnxruntime.InferenceSession(tmp_path / "whole.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in opened.get_outputs()] == ["logits", "tags"]
    data = run.parent / "words.txt"
    scores = [command("evaluate", each, data).out.partition("intervals")[0] for each in (run, tmp_path / "whole.onnx")]
    assert scores[0] == scores[1]
    said = [command("predict", each, data).out for each in (run, tmp_path / "whole.onnx", tmp_path / "small.onnx")]
    assert said[0] == said[1]
    words = [[line.split("\t")[1] for line in each.splitlines() if line] for each in said]
    assert np.mean([a == b for a, b in zip(words[0], words[2], strict=True)]) > 0.9
    for text in said[2].strip().split("\n\n"):
        tags = [line.split("\t")[1] for line in text.splitlines()]
        assert ("O", "I-B") not in pairwise(tags)


@pytest.mark.parametrize(("others", "fits"), [(0, True), (1, True), (3, False)])
def test_a_file_may_say_few_other_tags(others: int, fits: bool) -> None:
    """Of two thousand; those that PyTorch says, too, do not count."""
    exact, sums = torch.arange(2000), _Sums()
    mine, torchs = exact.clone(), exact.clone()
    mine[: others + 5] += 1
    torchs[others : others + 5] += 1
    sums.add(mine, torchs, exact, 0.0)
    assert (sums.mine**0.5 <= sums.allowed()) is fits
    assert sums.error() == Share(others / 2000)


def test_the_page_adds_up(run: Path) -> None:
    """What directions, bias and the tags around say of two tags differs by the logarithm of how much likelier one is."""
    trained = tagging.load(run)
    page = directions.tagger(run, "the old cat sat mat dog", None).data["sentences"][0]
    assert page["predicted"] == trained.tag([page["words"]])[0]
    for chances, shares, said in zip(page["likeliest"], page["shares"], page["predicted"], strict=True):
        chance = dict(chances)
        sums = {each["name"]: sum(v for key, v in each.items() if key != "name") for each in shares}
        assert next(iter(sums)) == said
        a, b = sums
        assert sums[a] - sums[b] == pytest.approx(np.log(chance[a] / chance[b]), abs=2e-2)
        assert max(abs(each[way]) for each in shares for way in ("before", "after")) > 0.01
    model, batch = trained.model.double().eval(), trained.encode([Sentence(page["words"], [])]).batch([0])
    lengths, crf = batch.pop("lengths"), model.crf
    assert crf is not None
    inputs = model.inputs(**batch).detach().requires_grad_()
    told = crf(model.output(model.recurrent(inputs, lengths=lengths)[0]))
    for t, said in enumerate(page["predicted"]):
        (d_x,) = torch.autograd.grad(told[t, 0, trained.vocabulary.tag(said)], inputs, retain_graph=True)
        assert page["look"][t] == pytest.approx(d_x.norm(dim=2)[:, 0].tolist(), rel=1e-2)


def test_a_run_whose_model_lacks_it_is_refused(tmp_path: Path, run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    content["options"]["crf"] = "yes"
    for each in run.iterdir():
        if each.is_file():
            (tmp_path / each.name).write_bytes(each.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"crf is 'yes' but should be bool \| None"):
        tagging.load(tmp_path)
