"""Samplers against numpy, over thousands of draws from the same logits; and that no value of a parameter is compiled in."""

import math
import shutil

import mlx.core as mx
import numpy as np
import pytest

from pensieved.engine.protocol import Sampling
from pensieved.engine.worker.choosing.sampling import Samplers

VOCABULARY = 12
ROWS = 20_000
LOGITS = np.random.default_rng(5).normal(scale=2.0, size=VOCABULARY).astype(np.float32) + 20.0
KINDS = {
    "temperature": Sampling(temperature=0.7),
    "hot": Sampling(temperature=3.0),
    "nucleus": Sampling(temperature=1.0, top_p=0.8),
    "least": Sampling(temperature=1.5, min_p=0.1),
    "likeliest": Sampling(temperature=2.0, top_k=3),
    "all": Sampling(temperature=1.2, top_p=0.9, min_p=0.02, top_k=5),
}
SEEDS = [None, 11]


def sampler(kind, seed=None):
    wanted = KINDS[kind]
    sampling = Sampling(wanted.temperature, wanted.top_p, wanted.top_k, wanted.min_p, seed=seed)
    return Samplers(VOCABULARY).sampler(sampling, 0)


def expected(kind):
    """How often each token should be chosen. Filters look at the probabilities at temperature 1, each at what is left."""
    sampling = KINDS[kind]
    probabilities = np.exp(LOGITS - LOGITS.max())
    probabilities /= probabilities.sum()
    falling = np.argsort(-probabilities)
    left = np.ones(VOCABULARY, dtype=bool)
    if sampling.top_p < 1:
        before = np.cumsum(probabilities[falling]) - probabilities[falling]
        left[falling[before >= sampling.top_p]] = False
    left &= probabilities >= sampling.min_p * probabilities.max()
    if sampling.top_k:
        left[falling[sampling.top_k :]] = False
    heated = np.where(left, probabilities ** (1 / sampling.temperature), 0.0)
    return heated / heated.sum()


def agree(tokens, kind):
    found = np.bincount(tokens, minlength=VOCABULARY) / len(tokens)
    shares = expected(kind)
    assert set(np.flatnonzero(found)) <= set(np.flatnonzero(shares))
    deviation = 0.5 / math.sqrt(len(tokens))  # of a share, at the most
    assert np.abs(found - shares).max() < 5 * deviation


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("more", [0.0, 100.0])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_come_as_often_as_the_parameters_say(kind, more, seed):
    """Whatever all logits have in common: what can be drawn is told by probabilities."""
    mx.random.seed(3)
    agree(np.array(sampler(kind, seed)(mx.array(np.tile(LOGITS + more, (ROWS, 1))))), kind)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_of_a_single_row(seed):
    """MLX draws for one row in another way than for several."""
    mx.random.seed(3)
    draw, row = sampler("all", seed), mx.array(LOGITS[None])
    agree(np.array(mx.concatenate([draw(row) for _ in range(2000)])), "all")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_logits_are_divided_by_the_temperature_in_full(kind, seed):
    """From 16 on bfloat16 has eight numbers to a unit: with quotients that coarse, one token in fifty would be another."""
    rounded = mx.array(np.tile(LOGITS, (ROWS, 1))).astype(mx.bfloat16)
    drawn = []
    for logits in (rounded, rounded.astype(mx.float32)):
        mx.random.seed(4)
        drawn.append(np.array(sampler(kind, seed)(logits)))
    assert (drawn[0] == drawn[1]).all()


def test_equal_parameters_share_a_sampler():
    samplers = Samplers(VOCABULARY)
    same = [samplers.sampler(Sampling(temperature=0.5, top_p=0.9), position) for position in (0, 7)]
    seeded = [samplers.sampler(Sampling(temperature=0.5, seed=1), 0) for _ in range(2)]
    assert same[0] is same[1]
    assert samplers.sampler(Sampling(temperature=0.5, top_p=0.8), 0) is not same[0]
    assert seeded[0] is not seeded[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles nothing for a CPU without g++")
@pytest.mark.parametrize(
    ("module", "traced", "values"),
    [
        (mx.random, "categorical", [{"temperature": heat} for heat in (0.3, 0.31, 0.9)]),
        (mx, "cumsum", [{"temperature": 1.0, "top_p": share} for share in (0.3, 0.31, 0.9)]),
    ],
)
def test_another_value_is_traced_no_second_time(monkeypatch, module, traced, values):
    """MLX runs a compiled function's own code for each number that it has not seen among its arguments, and compiles what comes of it."""
    plain, calls = getattr(module, traced), []
    monkeypatch.setattr(module, traced, lambda *given, **named: calls.append(given) or plain(*given, **named))
    logits = mx.zeros((ROWS, len(traced)))  # a shape that no other test has
    for each in values:
        Samplers(logits.shape[-1]).sampler(Sampling(**each), 0)(logits)
    assert len(calls) == 1
