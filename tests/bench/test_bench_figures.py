"""Figures that would be believed if they were wrong."""

import asyncio
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import fair, levels, prompts, soak, stolen
from bench.dialects import Answer, Request
from bench.figures import middle, quantile, ratio, spread
from support import tiny


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_a_value_that_was_measured(values, share):
    assert quantile(values, share) == np.quantile(values, share, method="inverted_cdf")


def test_nothing_measured_is_no_figure():
    assert quantile([], 0.5) is None
    assert spread([]) == {"n": 0, "p50": None, "p99": None, "max": None}
    assert middle([None, None]) is None
    assert ratio(1.0, None) is None
    assert ratio(1.0, 0.0) is None


def test_p99_of_a_hundred_is_the_second_largest():
    assert spread([float(n) for n in range(100)]) == {"n": 100, "p50": 49.0, "p99": 98.0, "max": 99.0}


def test_a_seed_makes_the_same_prompt_in_every_process():
    code = "from bench.prompts import story; print(story('7/0/level/8/3'))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert said == {prompts.story("7/0/level/8/3")}
    assert prompts.story("7/0/level/8/4") not in said


@pytest.mark.parametrize("length", [1, 7, 200])
def test_a_long_text_has_the_tokens_that_were_asked_for(length):
    tokenizer = tiny.tokenizer()
    text = prompts.long_text(tokenizer, "x", length)
    assert len(tokenizer.encode(text).ids) == length


def test_a_new_question_is_no_gap_between_tokens():
    eight = fair._Eight(None, "")
    eight.times[0] = [1.0, 2.0, 5.0, 6.0]  # the stream asked anew at 3
    eight.times[1] = [1.5, 2.5]
    eight.starts = [0.0, 3.0]
    assert sorted(eight.gaps(0.0, 10.0)) == [1.0, 1.0, 1.0]
    assert eight.gaps(2.1, 5.5) == [1.0]
    assert eight.count(1.5, 5.0) == 3


def test_work_is_kept_when_both_take_as_long_together_as_one_after_the_other():
    figures = {"alone": 2.0, "tokens_during": 30, "rate_before": 10.0, "rate_after": 10.0, "together": 5.0}
    assert fair.kept(figures) == 1.0
    assert fair.kept({**figures, "together": 10.0}) == 0.5
    assert fair.kept({**figures, "rate_before": 7.5, "rate_after": 15.0}) == 1.0  # 4 and 2 seconds


def test_what_the_host_took_is_no_loss_of_the_server():
    nothing = {"alone": 0.0, "before": 0.0, "together": 0.0, "after": 0.0}
    figures = {"alone": 2.0, "tokens_during": 30, "rate_before": 10.0, "rate_after": 10.0, "together": 10.0}
    assert fair.own_kept({**figures, "stolen": nothing}) == fair.kept(figures) == 0.5
    assert fair.own_kept({**figures, "stolen": {**nothing, "together": 0.5}}) == 1.0
    slower = {**figures, "rate_before": 7.5, "rate_after": 7.5, "alone": 4.0}
    shares = {**nothing, "before": 0.25, "after": 0.25, "alone": 0.5}
    assert fair.own_kept({**slower, "stolen": shares}) == 0.5
    assert fair.own_kept({**figures, "stolen": {**nothing, "after": 0.6}}) is None


def test_a_span_knows_what_all_processors_lost_meanwhile(monkeypatch):
    steal = iter([7.0, 7.5])
    monkeypatch.setattr(stolen.psutil, "cpu_times", lambda: SimpleNamespace(steal=next(steal)))
    assert stolen.Watch().span().stolen == 0.5
    assert stolen.Span(2.0, 0.5).share == 0.25


@pytest.mark.parametrize(
    ("taken", "counts", "tries"), [([0.0], 0, 1), ([0.5, 0.1, 0.0], 2, 3), ([0.5, 0.3, 0.4], 1, 3)]
)
def test_a_level_that_the_host_disturbed_is_measured_again(monkeypatch, taken, counts, tries):
    asked = []

    class Server:
        async def level(self, seed, **size):
            asked.append((seed, size))
            return {"try": len(asked) - 1}

    spans = iter([stolen.Span(1.0, share) for share in taken])
    monkeypatch.setattr(levels, "Watch", lambda: SimpleNamespace(span=lambda: next(spans)))
    monkeypatch.setattr(stolen.psutil, "cpu_count", lambda: 1)
    figures = asyncio.run(levels._calmest(Server(), "seed", concurrency=3))
    assert figures == {"try": counts, "stolen": taken[counts]}
    assert len({seed for seed, _ in asked}) == tries
    assert all(size == {"concurrency": 3} for _, size in asked)


def test_where_nothing_counts_what_is_taken_nothing_is(monkeypatch):
    monkeypatch.setattr(stolen.psutil, "cpu_times", lambda: SimpleNamespace(user=5.0))
    assert stolen.Watch().span().stolen == 0.0


@pytest.mark.parametrize(("long_enough", "visits"), [(60.0, 3), (0.0, 1)])
def test_a_prompt_comes_again_until_there_are_enough_gaps_but_a_long_one_does_not(
    monkeypatch, long_enough, visits
):
    async def ask(_target, _request, on_text):
        await asyncio.sleep(0.001)
        on_text("a word")
        return Answer(complete=True, output_tokens=1, prompt_tokens=50, cached_tokens=2)

    async def at_once(_gaps, _since):
        await asyncio.sleep(0)

    eight = fair._Eight(SimpleNamespace(target=lambda: None), "seed")
    monkeypatch.setattr(eight, "until_each_has", at_once)
    monkeypatch.setattr(eight, "gaps", lambda begin, end: [0.1, 0.2])
    monkeypatch.setattr(fair, "ask", ask)
    monkeypatch.setattr(fair, "_LONG_ENOUGH", long_enough)
    prompts_ = iter([Request(messages=("long",), tokens=1)] * 9)
    figures = asyncio.run(fair._script(eight.server, eight, (0, 0, 6), prompts_))
    assert (figures["visits"], figures["during"]["n"]) == (visits, 2 * visits)
    assert (figures["long_prompt"], figures["long_prompt_cached"]) == (50, 2)
    assert set(figures["stolen"]) == {"before", "together", "after"}


@pytest.mark.parametrize("answers", [["ab", "cd", "ef", "gh"], ["abcdef", "gh"]])
def test_a_soak_counts_tokens_however_many_an_event_carries(monkeypatch, answers):
    asked = iter([["ab", "cd", "ef", "gh"], answers])

    async def ask(_target, _request, on_text):
        heard = next(asked)
        for text in heard:
            on_text(text)
        return Answer(complete=True, output_tokens=4, text=heard)

    clock = iter([0.0, 2.0, 2.0, 4.0, 4.0])
    monkeypatch.setattr(soak, "ask", ask)
    monkeypatch.setattr(soak, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    streams = soak._Streams(SimpleNamespace(target=lambda: None), SimpleNamespace(seed="s", tokens=4))
    for _ in range(2):
        asyncio.run(streams._ask())
        assert streams.take() == {"tokens_per_second": 2.0, "answers": 1, "faults": 0}
