"""Drafts: what is foretold, when it pays, and that no answer changes, whatever is drafted for whom."""

import random
import time
from functools import lru_cache, partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pensieved.chat.conversation import Conversation, Role, text_turn
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.engine.protocol import Sampling, Submit
from pensieved.engine.supervisor import Engine, EngineConfig
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.passes.shapes import Shapes
from pensieved.engine.worker.prompt_cache.keeper import PromptCache
from pensieved.engine.worker.prompt_cache.policy import CPU
from pensieved.engine.worker.speculation import turn
from pensieved.engine.worker.speculation.gain import LENGTHS, LONGEST_LIFE, MOST_ROWS, Gain, expected
from pensieved.engine.worker.speculation.history import LONGEST, SHORTEST, History
from pensieved.engine.worker.speculation.turn import Speculation, speculation_for
from support.architectures import PLAIN, VOCABULARY, model_of

EXACT = Shapes()
COMPILED = Shapes(compiled=True, slack=16, idle_chunks=2)  # as on Metal
PADDED = Shapes(doubling=True, padded=True, slack=32, idle_chunks=4)  # as on CUDA
PENALTY = Sampling(repetition_penalty=1.2)
SEEDED = Sampling(temperature=1.0, seed=7)
IDS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def history(ids):
    return History(np.array(ids, dtype=np.uint32))


def foretold(ids):
    """The place that `History` should find, looked for the slow way."""
    best = None
    for place in range(1, len(ids)):
        agreed = 0
        while agreed < min(LONGEST, place) and ids[place - 1 - agreed] == ids[-1 - agreed]:
            agreed += 1
        if agreed >= SHORTEST and (best is None or agreed >= best[1]):
            best = place, agreed
    return best


@given(IDS)
def test_the_latest_of_the_longest_matches_is_followed(ids):
    found = foretold(ids)
    assert (history(ids).draft(1) or None) == (found and [ids[found[0]]])


@given(IDS, IDS)
def test_a_draft_goes_on_as_the_text_did(prompt, answer):
    followed = history(prompt)
    for length in range(len(answer) + 1):
        followed.follow(answer[:length])
        known = prompt + answer[:length]
        draft = followed.draft(20)
        assert bool(draft) == bool(followed.chance)
        if draft:
            whole = known + draft
            starts = [place for place in range(1, len(known)) if known[place - 2 : place] == known[-2:]]
            assert any(all(whole[len(known) + n] == whole[place + n] for n in range(20)) for place in starts)


def test_trust_follows_what_came():
    right, wrong = history([1, 2, 3, 4, 5] * 8), history([1, 2, 3, 4, 5] * 8)
    before = right.chance
    right.follow([1, 2, 3, 4, 5] * 8)
    assert right.chance > before
    said = []
    for number in range(10):
        said += [9 + number, 1, 2, 3, 4, 5]
        wrong.follow(said)
    assert wrong.chance < before


# --- what pays ---------------------------------------------------------------------------------------------


def gain_of(seconds, rows=1):
    """One that has measured passes with so many tokens drafted."""
    gain = Gain()
    gain.took(1.0, rows)
    for drafted, each in seconds.items():
        gain.took(each, rows, drafted)
    return gain


def test_nothing_is_drafted_before_a_plain_pass_was_measured():
    assert Gain().lengths([0.98]) == [0]


@pytest.mark.parametrize(
    ("seconds", "chance", "length"),
    [
        ({1: 1.1, 3: 1.2, 7: 1.4, 15: 1.8}, 0.98, 15),
        ({1: 1.1, 3: 1.2, 7: 1.4, 15: 6.0}, 0.98, 7),
        ({1: 1.1, 3: 1.2, 7: 1.4, 15: 1.8}, 0.5, 3),
        ({1: 1.1, 3: 1.2, 7: 1.4, 15: 1.8}, 0.1, 0),
        ({1: 2.0, 3: 4.0, 7: 8.0, 15: 16.0}, 0.98, 0),  # a device on which each row costs a pass
    ],
)
def test_the_length_is_what_the_measured_times_say(seconds, chance, length):
    assert gain_of(seconds).lengths([chance]) == [length]


def test_what_was_found_dear_is_tried_ever_more_rarely():
    gain, tries = gain_of({}), []
    for number in range(8 * LONGEST_LIFE):
        (length,) = gain.lengths([0.9])
        if length:
            tries.append(number)
        gain.took(9.0 if length else 1.0, 1, length)
    early, late = (
        sum(start <= each < start + 4 * LONGEST_LIFE for each in tries) for start in (0, 4 * LONGEST_LIFE)
    )
    assert early > late > 0
    assert late < 0.02 * 4 * LONGEST_LIFE


def test_one_slow_pass_does_not_end_it():
    gain, drafted = gain_of({}), 0
    for length in LENGTHS:
        gain.took(50.0, 1, length)
    for _ in range(100):
        (length,) = gain.lengths([0.95])
        drafted += length > 0
        gain.took(1.5 if length else 1.0, 1, length)
    assert drafted > 70


def test_what_is_compiled_for_the_first_pass_of_its_kind_does_not_count():
    gain = gain_of({})
    gain.took(99.0, 1, 15, met=False)
    assert gain.lengths([0.98]) == [15]
    gain.took(99.0, 1, 15, met=False)  # but it does where that comes again
    assert gain.lengths([0.98]) == [7]


def test_one_stream_is_not_fed_by_many():
    half = {15: 1.5}
    assert gain_of(half, rows=2).lengths([0.98, 0.0]) == [15, 0]
    assert sum(gain_of({1: 1.5, 3: 1.5, 7: 1.5, 15: 1.5}, rows=8).lengths([0.98] + [0.0] * 7)) == 0
    assert gain_of(dict.fromkeys((1, 3, 7, 15), 2.6), rows=2).lengths([0.98, 0.0]) == [0, 0]


def test_a_crowd_has_no_drafts():
    rows = MOST_ROWS + 1
    assert gain_of({}, rows).lengths([0.98] * rows) == [0] * rows


@given(st.floats(0, 0.98), st.integers(0, 15))
def test_expected_tokens_are_the_sum_of_the_chances(chance, drafted):
    assert expected(chance, drafted) == pytest.approx(sum(chance**n for n in range(drafted + 1)))


# --- answers -----------------------------------------------------------------------------------------------


class Careless(Gain):
    """Drafts something for everybody, whatever it costs."""

    def __init__(self, seed):
        super().__init__()
        self._random = random.Random(seed)

    def lengths(self, chances):
        return [self._random.choice((0, 1, 3, 7, 15)) if chance else 0 for chance in chances]


class Prophet:
    """A history that knows the answers, and is often wrong all the same: random models hardly repeat themselves."""

    def __init__(self, answers, seed, prompt):
        self._answer = answers.get(tuple(prompt.tolist()), [])
        self._random = random.Random(seed)
        self._known = 0
        self.chance = 0.5

    def follow(self, answer):
        self._known = len(answer)

    def draft(self, length):
        told = [*self._answer[self._known : self._known + length], *([0] * length)][:length]
        if self._random.random() < 0.5:
            place = self._random.randrange(length)
            told[place] = (told[place] + 1) % VOCABULARY
        return told


@lru_cache
def model(kind="llama"):
    return model_of(kind)


def batch_of(policy=EXACT, kind="llama", **options):
    options = {"max_concurrent": 4, "prefill_chunk": 32, **options}
    return Batch(model(kind), mx.default_device(), shapes=policy, **options)


@pytest.fixture
def drafting(monkeypatch):
    """Makes batches that draft carelessly, knowing what some requests were answered."""

    def make(seed, submits, got, **options):
        answers = {submit.prompt: got[submit.request][0] for submit in submits}
        monkeypatch.setattr(turn, "History", partial(Prophet, answers, seed))
        batch = batch_of(**options)
        batch._speculation = Speculation(batch._runner, Careless(seed))
        return batch

    return make


def repetitive(seed):
    """A prompt that says some things several times."""
    chance = random.Random(seed)
    pieces = [[chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 9))] for _ in range(3)]
    return tuple(token for _ in range(chance.randint(2, 12)) for token in chance.choice(pieces))


def requests(seed, count=8):
    chance = random.Random(seed)
    return [
        Submit(
            number,
            repetitive(100 * seed + number),
            chance.randint(1, 70),
            tuple(chance.sample(range(VOCABULARY), 2)) if chance.random() < 0.5 else (),
            sampling=chance.choice((Sampling(), Sampling(), Sampling(), PENALTY, SEEDED)),
            logprobs=chance.choice((None, None, None, 2)),
        )
        for number in range(count)
    ]


def run(batch, submits, seed=0, cancelling=0.0):
    """What each got: tokens, why it ended, and its logprobs' length. Requests come one after another."""
    chance, waiting, got = random.Random(seed), list(submits), {}
    while waiting or len(batch):
        if waiting and chance.random() < 0.3:
            submit = waiting.pop(0)
            got[submit.request] = [[], None, 0]
            batch.insert(submit)
        for output in batch.step():
            entry = got[output.request]
            assert entry[1] is None, "no tokens behind the end"
            entry[0] += output.tokens
            entry[1] = output.finish
            entry[2] += len(output.logprobs)
        live = [number for number, entry in got.items() if entry[1] is None]
        if live and chance.random() < cancelling:
            gone = chance.choice(live)
            batch.remove(gone)
            got[gone][1] = "cancelled"
    return got


@pytest.mark.parametrize("policy", [EXACT, COMPILED], ids=["exact", "compiled"])
@pytest.mark.parametrize("seed", range(4))
def test_answers_are_the_same_with_drafts(drafting, seed, policy):
    wanted = requests(seed)
    plain = run(batch_of(), wanted, seed)
    batch = drafting(seed, wanted, plain, policy=policy)
    assert run(batch, wanted, seed) == plain
    assert batch.speculation.drafted > batch.speculation.accepted > 10


@pytest.mark.parametrize("kind", PLAIN)
def test_every_plain_architecture_follows_drafts(drafting, kind):
    wanted = [Submit(number, repetitive(number), 40, ()) for number in range(3)]
    plain = run(batch_of(kind=kind), wanted)
    batch = drafting(1, wanted, plain, kind=kind)
    assert run(batch, wanted) == plain
    assert batch.speculation.accepted > 30


@pytest.mark.parametrize("seed", range(12))
def test_coming_going_and_cancelling_change_nobodys_answer(drafting, seed):
    wanted = requests(seed, count=12)
    plain = run(batch_of(), wanted, seed)
    batch = drafting(seed, wanted, plain)
    for number, (tokens, finish, _) in run(batch, wanted, seed, cancelling=0.05).items():
        assert tokens == plain[number][0][: len(tokens)]
        assert finish in {plain[number][1], "cancelled"}
    assert batch._runner.width == 0


def test_rows_far_apart_in_length_are_drafted_for_together(drafting):
    long = (repetitive(0) * 2200)[:2200]
    wanted = [Submit(0, long, 100, ()), *(Submit(number, repetitive(number), 60, ()) for number in (1, 2))]
    plain = run(batch_of(prefill_chunk=2200), wanted)
    batch = drafting(2, wanted, plain, prefill_chunk=2200)
    shelves, got = set(), {}
    batch.insert(wanted[0])
    while not got:
        got = {output.request: list(output.tokens) for output in batch.step()}
    for submit in wanted[1:]:
        batch.insert(submit)
    while len(batch):
        before = batch.speculation.drafted
        for output in batch.step():
            got.setdefault(output.request, []).extend(output.tokens)
        if batch.speculation.drafted > before:
            shelves.add(len(batch._runner._shelves))
    assert 2 in shelves
    assert got == {number: each[0] for number, each in plain.items()}


def test_what_drafts_leave_in_the_prompt_cache_is_what_was_said(drafting):
    firsts = [Submit(seed, repetitive(seed), 40, ()) for seed in range(6)]
    plain = run(batch_of(), firsts)
    keeper = PromptCache(plain=True, policy=CPU, budget=1 << 30, report=lambda _: None)
    batch = drafting(3, firsts, plain, keeper=keeper)
    for first in firsts:
        assert run(batch, [first]) == {first.request: plain[first.request]}
        more = Submit(99, (*first.prompt, *plain[first.request][0], *repetitive(first.request + 50)), 20, ())
        assert run(batch, [more]) == run(batch_of(), [more])
    assert batch.speculation.accepted > 30


def test_a_stop_token_within_a_draft_is_the_last_token(drafting):
    for seed in range(6):
        free = Submit(0, repetitive(seed), 60, ())
        plain = run(batch_of(), [free])
        stop = plain[0][0][40 + seed]
        batch = drafting(seed, [free], plain)
        tokens, finish, _ = run(batch, [Submit(0, free.prompt, 60, (stop,))])[0]
        assert finish == "stop"
        assert tokens == plain[0][0][: plain[0][0].index(stop) + 1]


# --- where it is not done ----------------------------------------------------------------------------------


def test_no_drafts_where_shapes_are_dear_or_rows_cannot_be_set_back():
    assert speculation_for(batch_of()._runner, EXACT) is not None
    assert speculation_for(batch_of()._runner, PADDED) is None
    assert speculation_for(batch_of(kind="gemma3_text")._runner, EXACT) is None


def test_off_unless_asked_for():
    batch = batch_of()
    run(batch, requests(0))
    assert batch.speculation.drafted == 0


def test_requests_that_are_not_greedy_have_no_drafts(drafting):
    wanted = [
        Submit(0, repetitive(1), 30, (), sampling=SEEDED),
        Submit(1, repetitive(2), 30, (), logprobs=1),
        Submit(2, repetitive(3), 30, (), sampling=PENALTY),
    ]
    plain = run(batch_of(), wanted)
    batch = drafting(0, wanted, plain)
    assert run(batch, wanted) == plain
    assert batch.speculation.drafted == 0


def test_its_own_judgement_changes_no_answer_either():
    wanted = [Submit(number, repetitive(number), 70, ()) for number in range(3)]
    batch = batch_of()
    batch.speculate()
    assert run(batch, wanted) == run(batch_of(), wanted)
    assert batch._speculation._gain._plain


# --- the real model, in an engine of its own ---------------------------------------------------------------

NEWS = (
    "The ferry to the islands leaves at 7:40 and 16:15 from the granite pier. Bicycles cost 4 euros, dogs travel free, "
    "and tickets are sold on board. In a storm the ferry does not run, and the office at the harbour tells when it will."
)


@pytest.mark.slow
def test_the_starter_model_says_the_same_with_and_without_drafts(starter_model, tmp_path):
    text = ChatTokenizer.open(starter_model.path, starter_model.manifest.eos_token_ids)
    questions = (f"Repeat the following text. Write nothing else.\n\n{NEWS}", "Count from one to five.")
    prompts = [text.encode_chat(Conversation((text_turn(Role.USER, each),))) for each in questions]
    said = {}
    for speculation in (False, True):
        engine = Engine(EngineConfig(cache_dir=tmp_path, speculation=speculation), lambda *_: None)
        try:
            engine.start()
            engine.load(starter_model.path, max_concurrent=4)
            said[speculation] = [answered(engine, text, prompt) for prompt in prompts]
            deadline = time.monotonic() + 10
            while speculation and not engine.stats.speculation.accepted and time.monotonic() < deadline:
                time.sleep(0.05)
            drafted = engine.stats.speculation.drafted
            assert bool(drafted) == speculation
        finally:
            engine.stop(5)
    assert said[True] == said[False]


def answered(engine, text, prompt):
    """The tokens of a greedy answer."""
    generation = engine.client.submit(
        prompt, max_tokens=50, stop_tokens=text.stop_token_ids, sampling=Sampling()
    )
    tokens, deadline = [], time.monotonic() + 120
    while time.monotonic() < deadline:
        chunk = generation.next(1.0)
        if chunk is not None:
            tokens += chunk.tokens
            if chunk.finish is not None:
                return tokens
    raise TimeoutError(f"only {len(tokens)} tokens came")
