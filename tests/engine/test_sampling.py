"""Samplers against numpy, over thousands of rows of the same logits; and that no value of a parameter is compiled in."""

import math
import shutil

import mlx.core as mx
import numpy as np
import pytest

from pensieved.engine.protocol import Sampling
from pensieved.engine.worker.choosing.sampling import Samplers

VOCABULARY = 12
ROWS = 20_000
TOLERANCE = 5 / math.sqrt(ROWS)  # five standard deviations of a share are half of that at the most
LOGITS = np.random.default_rng(5).normal(scale=2.0, size=VOCABULARY).astype(np.float32) + 30.0
KINDS = {
    "temperature": Sampling(temperature=0.7),
    "hot": Sampling(temperature=3.0),
    "nucleus": Sampling(temperature=1.0, top_p=0.8),
    "least": Sampling(temperature=1.5, min_p=0.1),
    "likeliest": Sampling(temperature=2.0, top_k=3),
    "all": Sampling(temperature=1.2, top_p=0.9, min_p=0.02, top_k=5),
}


def sampler(sampling):
    return Samplers(VOCABULARY).sampler(sampling, 0)


def shares(sampling):
    """How often each token should be chosen. Filters look at the probabilities at temperature 1, each at what is left."""
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


@pytest.mark.parametrize("seed", [None, 11])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_come_as_often_as_the_parameters_say(kind, seed):
    mx.random.seed(3)
    wanted = KINDS[kind]
    sampling = Sampling(wanted.temperature, wanted.top_p, wanted.top_k, wanted.min_p, seed=seed)
    chosen = np.array(sampler(sampling)(mx.array(np.tile(LOGITS, (ROWS, 1)))))
    found = np.bincount(chosen, minlength=VOCABULARY) / ROWS
    expected = shares(wanted)
    assert set(np.flatnonzero(found)) <= set(np.flatnonzero(expected))
    assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_logits_are_divided_by_the_temperature_in_full(kind):
    """Of 30 and more there are eight numbers to a unit: a quotient as coarse as that would move shares by several percent."""
    mx.random.seed(3)
    rounded = mx.array(np.tile(LOGITS, (ROWS, 1))).astype(mx.bfloat16)
    whole = rounded.astype(mx.float32)
    mx.random.seed(4)
    coarse = np.bincount(np.array(sampler(KINDS[kind])(rounded)), minlength=VOCABULARY)
    mx.random.seed(4)
    fine = np.bincount(np.array(sampler(KINDS[kind])(whole)), minlength=VOCABULARY)
    assert np.abs(coarse - fine).max() / ROWS < TOLERANCE


def test_equal_parameters_share_a_sampler():
    samplers = Samplers(VOCABULARY)
    same = [samplers.sampler(Sampling(temperature=0.5, top_p=0.9), position) for position in (0, 7)]
    other = samplers.sampler(Sampling(temperature=0.5, top_p=0.8), 0)
    assert same[0] is same[1]
    assert other is not same[0]
    assert samplers.sampler(Sampling(temperature=0.5, seed=1), 0) is not samplers.sampler(
        Sampling(temperature=0.5, seed=1), 0
    )


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
