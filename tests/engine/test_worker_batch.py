"""The batch itself, in this process, on tiny random models: the same greedy tokens as mlx-lm's own generator."""

import random
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from itertools import chain

import mlx.core as mx
import pytest
from mlx import nn
from mlx_lm.models.cache import KVCache

from pensieved.engine.protocol import FinishReason, Sampling, Submit
from pensieved.engine.worker import decode, rehearsal, warming
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.choosing import sampling as drawing
from pensieved.engine.worker.memory import device
from pensieved.engine.worker.passes.flat import Flat
from pensieved.engine.worker.passes.library import Library
from pensieved.engine.worker.passes.onepass import Narrowing
from pensieved.engine.worker.passes.quantized import MatrixLinear
from pensieved.engine.worker.passes.shapes import CPU, CUDA, METAL
from pensieved.engine.worker.passes.traces import Traces
from pensieved.engine.worker.slices import SlicedPace
from support.architectures import OTHERS, PLAIN, model_of
from support.batches import begun
from support.greedy import expected, prompts

LENGTHS = (1, 5, 40, 90, 17, 40, 200, 3)
TOKENS = 24
POLICIES = {"exact": CPU, "metal": METAL, "padded": replace(CUDA, apart=False, compiled=False), "cuda": CUDA}


def batch_of(model, policy=CPU, **settings):
    settings = {"max_concurrent": 8, "prefill_chunk": 32, **settings}
    return Batch(model, mx.default_device(), shapes=policy, **settings)


def submit(batch, number, prompt, tokens=TOKENS, **more):
    batch.insert(Submit(number, tuple(prompt), tokens, **{"stop_tokens": (), **more}))


def run(batch, answers=None):
    """Step until nobody is left; the tokens by request."""
    answers = {} if answers is None else answers
    while len(batch):
        step(batch, answers)
    return answers


def step(batch, answers):
    """One of them; its tokens go to those of their requests."""
    for output in batch.step():
        answers.setdefault(output.request, []).extend(output.tokens)


def answer(batch, wanted, tokens=TOKENS, **more):
    for number, prompt in enumerate(wanted):
        submit(batch, number, prompt, tokens, **more)
    answers = run(batch)
    return [answers[number] for number in range(len(wanted))]


@pytest.fixture(scope="module")
def llama():
    return model_of("llama")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_caches_run_flat_and_answer_as_mlx_lm(kind, policy):
    model = model_of(kind)
    wanted = prompts(LENGTHS)
    batch = batch_of(model, POLICIES[policy])
    assert isinstance(batch._runner, Flat)
    assert answer(batch, wanted) == expected(model, wanted, TOKENS)


def test_a_chunk_keeps_no_more_than_its_own_keys_and_values():
    model = model_of("phi3")  # its layers compute queries, keys and values as one array
    flat = Flat(model, replace(CUDA, compiled=False))
    prompt = flat.open([1024])  # so that what the allocator rounds up is nothing to it
    flat.run(None, [(prompt, [tuple(range(64)) * 16])])
    mx.eval(prompt.cells.arrays)
    own, held = sum(array.nbytes for array in prompt.cells.arrays), mx.get_active_memory()
    del prompt
    assert own <= held - mx.get_active_memory() <= 1.1 * own


@pytest.mark.parametrize("kind", ["llama", "mixtral", "lfm2"])
def test_quantized_models_answer_as_mlx_lm(kind):
    wanted = prompts(LENGTHS)
    plain, ours = model_of(kind), model_of(kind)
    for model in (plain, ours):
        nn.quantize(model, group_size=32, bits=8)
    batch = batch_of(ours)
    assert any(isinstance(module, MatrixLinear) for module in ours.modules())
    assert answer(batch, wanted) == expected(plain, wanted, TOKENS)


@pytest.mark.parametrize("policy", ["exact", "cuda"])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_caches_run_in_mlx_lms_own_batches(kind, policy):
    model = model_of(kind)
    wanted = prompts(LENGTHS)
    batch = batch_of(model, POLICIES[policy])
    assert isinstance(batch._runner, Library)
    assert answer(batch, wanted) == expected(model, wanted, TOKENS)


def test_a_model_that_masks_for_itself_is_not_run_flat():
    assert isinstance(batch_of(model_of("gemma2"))._runner, Library)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(3))
def test_coming_and_going_changes_nobodys_answer(llama, policy, seed):
    chance = random.Random(seed)
    wanted = prompts([chance.choice((1, 2, 9, 30, 33, 70, 150)) for _ in range(14)], seed)
    alone = expected(llama, wanted, 30)
    batch = batch_of(llama, POLICIES[policy], max_concurrent=5)
    answers, cancelled, waiting = {}, set(), list(range(len(wanted)))
    while waiting or len(batch):
        while waiting and chance.random() < 0.3:
            number = waiting.pop()
            submit(batch, number, wanted[number], tokens=chance.randrange(1, 31))
        if answers and chance.random() < 0.05:
            cancelled.add(number := chance.choice(sorted(answers)))
            batch.remove(number)
        for output in batch.step():
            assert output.request not in cancelled
            answers.setdefault(output.request, []).extend(output.tokens)
    for number, tokens in answers.items():
        assert tokens == alone[number][: len(tokens)]
    assert len(answers) > 8
    assert batch._runner.width == 0


@pytest.mark.parametrize("policy", ["metal", "cuda"])
def test_nobody_waits_with_a_first_token_for_a_trace_of_those_who_decode(monkeypatch, llama, policy):
    traced = []
    of = Traces.of
    monkeypatch.setattr(
        Traces, "of", lambda self, key, plain: traced.append(len(key[0])) or of(self, key, plain)
    )
    batch = batch_of(llama, POLICIES[policy], prefill_chunk=512)
    short, long = wanted = prompts([20, 2200])
    submit(batch, 0, short, tokens=80)
    answers = {}
    for _ in range(8):
        step(batch, answers)
    assert traced.count(1) > 1
    submit(batch, 1, long)
    batch.try_chunks(512)
    while 1 not in answers:
        step(batch, answers)
    assert 2 not in traced  # shelves
    step(batch, answers)
    step(batch, answers)
    assert 2 in traced
    run(batch, answers)
    assert [answers[0][:TOKENS], answers[1]] == expected(llama, wanted, TOKENS)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_long_row_does_not_stretch_the_short_ones(llama, policy):
    wanted = prompts([2200, 20, 30, 10])
    batch = batch_of(llama, POLICIES[policy], prefill_chunk=512)
    answers, shelves = {}, set()
    submit(batch, 0, wanted[0], 100)
    while not answers:
        answers = {output.request: list(output.tokens) for output in batch.step()}
    for number, prompt in enumerate(wanted[1:], start=1):
        submit(batch, number, prompt, 40)
    while len(batch):
        for output in batch.step():
            answers.setdefault(output.request, []).extend(output.tokens)
        shelves.add(tuple(sorted(shelf.cells.capacity for shelf in batch._runner._shelves)))
    assert any(len(each) == 2 and each[0] <= 256 and each[1] > 2000 for each in shelves)
    (long,), short = expected(llama, wanted[:1], 100), expected(llama, wanted[1:], 40)
    assert [answers[number] for number in range(4)] == [long, *short]


@pytest.mark.slow
def test_rows_grow_beyond_their_first_capacity(llama):
    wanted = prompts([50, 60])
    for policy in POLICIES.values():
        assert answer(batch_of(llama, policy), wanted, 200) == expected(llama, wanted, 200)


def test_the_cache_is_hardly_larger_than_what_it_holds(llama):
    batch = batch_of(llama)
    for number, prompt in enumerate(prompts([1000] * 4)):
        submit(batch, number, prompt, 20)
    held = 0
    while len(batch):
        batch.step()
        for shelf in batch._runner._shelves:
            held += 1
            assert shelf.cells.rows * shelf.cells.capacity <= 1.1 * sum(each or 0 for each in shelf.lengths)
    assert held


@pytest.mark.parametrize(("answering", "steps"), [(True, 1), (False, 2)])
def test_nothing_is_computed_behind_a_last_token_that_is_known_to_be_the_last(llama, answering, steps):
    batch = batch_of(llama, replace(CPU, answering=answering))
    passes, run_pass = [], batch._runner.run
    batch._runner.run = lambda tokens, work, **more: (
        passes.append((tokens is not None, bool(work))) or run_pass(tokens, work, **more)
    )
    submit(batch, 1, prompts([20])[0], tokens=2)
    assert len(run(batch)[1]) == 2
    assert passes == [(False, True), *[(True, False)] * steps]


@pytest.mark.parametrize("policy", ["exact", "metal"])
def test_answers_are_the_same_wherever_last_tokens_are_computed(llama, policy):
    penalties = Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5)
    asked = [
        {"logprobs": 3},
        {"sampling": Sampling(temperature=1.0, seed=4)},
        {"sampling": penalties, "logprobs": 0},
        {"tokens": 1, "logprobs": 2},
        {},
    ]
    wanted = list(zip(prompts([20, 20, 50, 33, 1, 200, 20, 65, 34]), asked * 2, strict=False))

    def outputs(answering):
        batch = batch_of(llama, replace(POLICIES[policy], answering=answering))
        found = {}
        for number, (prompt, more) in enumerate(wanted):
            submit(batch, number, prompt, **more)
            for output in chain.from_iterable(batch.step() for _ in range(number % 4)):
                found.setdefault(output.request, []).append(output)
        while len(batch):
            for output in batch.step():
                found.setdefault(output.request, []).append(output)
        return found

    one, other = outputs(answering=True), outputs(answering=False)
    for number, (_, more) in enumerate(wanted):
        tokens, same = (
            [token for output in each[number] for token in output.tokens] for each in (one, other)
        )
        assert tokens == same
        assert len(tokens) == more.get("tokens", TOKENS)
        logprobs, alike = (
            [token for output in each[number] for token in output.logprobs] for each in (one, other)
        )
        assert len(logprobs) == (len(tokens) if "logprobs" in more else 0)
        for token, twin in zip(logprobs, alike, strict=True):
            assert token.chosen == pytest.approx(twin.chosen, abs=1e-4)
            assert [each[0] for each in token.top] == [each[0] for each in twin.top]


@pytest.mark.parametrize(
    ("length", "chunks"), [(1, []), (2, [2]), (32, [32]), (33, [32]), (34, [32, 2]), (65, [32, 32])]
)
def test_a_last_token_goes_along_where_there_is_room(llama, length, chunks):
    batch = batch_of(llama)
    computed, run_pass = [], batch._runner.run
    batch._runner.run = lambda tokens, work, **more: (
        computed.extend(len(rows[0]) for _, rows in work) or run_pass(tokens, work, **more)
    )
    (prompt,) = prompts([length])
    assert answer(batch, [prompt]) == expected(llama, [prompt], TOKENS)
    assert computed == chunks


def test_a_model_without_a_backbone_answers_from_all_its_logits(monkeypatch):
    monkeypatch.setattr(Narrowing, "_subclass", lambda _, backbone: backbone)
    model, wanted = model_of("llama"), prompts(LENGTHS)
    assert answer(batch_of(model), wanted) == expected(model, wanted, TOKENS)


@pytest.mark.parametrize(("policy", "ahead"), [(CPU, 0), (METAL, 1)])
@pytest.mark.parametrize("answering", [True, False])
def test_on_a_cpu_a_token_does_not_wait_for_the_pass_behind_it(llama, policy, ahead, answering):
    batch = batch_of(llama, replace(policy, compiled=False, answering=answering))
    passes, run_pass = [], batch._runner.run
    batch._runner.run = lambda *args, **more: passes.append(args) or run_pass(*args, **more)
    submit(batch, 1, prompts([20])[0], tokens=3)
    produced = []  # tokens of a step, and the passes set off by then
    while len(batch):
        produced.append((sum(len(output.tokens) for output in batch.step()), len(passes)))
    first, last = (1, 3) if answering else (2, 4)
    assert [each for each in produced if each[0]] == [
        (1, min(first + ahead + more, last)) for more in range(3)
    ]


def test_tokens_of_a_request_that_is_alone_again_come_in_order(llama):
    one, other = prompts([20, 30])
    batch = batch_of(llama)
    submit(batch, 1, one, tokens=30)
    submit(batch, 2, other, tokens=5)
    assert run(batch) == {1: expected(llama, [one], 30)[0], 2: expected(llama, [other], 5)[0]}


def test_finishes(llama):
    (prompt,) = prompts([20])
    ((*tokens,),) = expected(llama, [prompt], 10)
    batch = batch_of(llama)
    submit(batch, 1, prompt, 10, stop_tokens=(tokens[4],))
    submit(batch, 2, prompt, 3)
    ends = {}
    while len(batch):
        for output in batch.step():
            if output.finish is not None:
                ends[output.request] = (output.finish, output.tokens[-1])
    assert ends == {1: (FinishReason.STOP, tokens[4]), 2: (FinishReason.LENGTH, tokens[2])}


@pytest.mark.parametrize("policy", POLICIES)
def test_everyone_has_a_sampler_of_their_own(llama, policy):
    """Greedy, seeded, penalized and biased rows side by side choose as each does alone."""
    kinds = [
        Sampling(),
        Sampling(temperature=1.0, seed=3),
        Sampling(temperature=1.0, seed=3, top_k=5),
        Sampling(repetition_penalty=1.5),
        Sampling(frequency_penalty=1.0, logit_bias=((7, 3.0),)),
        Sampling(),
    ]
    wanted = prompts([30, 12, 60, 30, 8, 9])
    alone = []
    for prompt, sampling in zip(wanted, kinds, strict=True):
        alone += answer(batch_of(llama), [prompt], sampling=sampling)
    batch = batch_of(llama, POLICIES[policy])
    for number, (prompt, sampling) in enumerate(zip(wanted, kinds, strict=True)):
        submit(batch, number, prompt, sampling=sampling, logprobs=2 if number % 2 else None)
    answers = run(batch)
    assert [answers[number] for number in range(len(kinds))] == alone


def test_log_probabilities_are_read_while_the_next_pass_runs(monkeypatch, llama):
    """On a stream of their own: on the batch's they would wait for that pass."""
    plain, streams = decode.read_logprobs, []

    def spy(*given):
        streams.append(mx.default_stream(mx.default_device()))
        return plain(*given)

    monkeypatch.setattr(decode, "read_logprobs", spy)
    batch = batch_of(llama)
    answer(batch, prompts([5, 9]), logprobs=1)
    assert streams
    assert batch._stream not in streams


class Everything:
    """A prompt cache that keeps whatever it is shown, by its tokens."""

    is_open = True

    def __init__(self, at=()):
        self.at = at
        self.known = {}
        self.recalled = []

    def fetch(self, row, capacity):
        return []

    def sets_apart(self, row):
        return bool(self.stops(row) or self.recall(row))

    def awaits(self, row, other):
        return False

    def recall(self, row):
        for length in range(len(row.prompt) - 1, 0, -1):
            if (found := self.known.get(row.prompt[:length])) is not None:
                self.recalled.append(length)
                return found, length
        return None

    def stops(self, row):
        return tuple(stop for stop in self.at if row.cached < stop < len(row.prompt))

    def keep(self, row, length, cut):
        self.known[(*row.prompt, *row.answer)[:length]] = cut(0)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["llama", *OTHERS])
def test_a_prompt_cache_changes_no_answer(kind, policy):
    model = model_of(kind)
    system = prompts([50], seed=9)[0]
    wanted = [(*system, *each) for each in prompts([30, 1, 7], seed=4)]
    keeper = Everything(at=(20, 50))
    batch = batch_of(model, POLICIES[policy], keeper=keeper)
    first = answer(batch, wanted)
    assert first == expected(model, wanted, TOKENS)
    assert sorted({len(tokens) for tokens in keeper.known})[:2] == [20, 50]
    assert answer(batch, wanted) == first
    assert keeper.recalled
    follow_up = [(*prompt, *tokens, 5, 6) for prompt, tokens in zip(wanted, first, strict=True)]
    keeper.recalled.clear()
    assert answer(batch, follow_up) == expected(model, follow_up, TOKENS)
    answered = {len(prompt) + len(tokens) for prompt, tokens in zip(wanted, first, strict=True)}
    assert {length + 1 for length in keeper.recalled} & answered or set(keeper.recalled) & answered


def test_snapshots_are_mlx_lms_own_caches(llama):
    keeper = Everything(at=(20,))
    answer(batch_of(llama, keeper=keeper), prompts([40]))
    for tokens, layers in keeper.known.items():
        for layer in layers:
            assert isinstance(layer, KVCache)
            assert layer.offset == layer.keys.shape[2] == len(tokens)


def warmed(monkeypatch, model, policy, concurrent):
    """A batch that has met everything it is ever to be warmed up for."""
    monkeypatch.setattr(rehearsal, "SOON", 128)
    monkeypatch.setattr(rehearsal, "LATER", 512)
    batch = batch_of(model, policy, max_concurrent=concurrent)
    for _ in chain(batch.first_passes(), batch.further_passes()):
        pass
    return batch


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_what_was_warmed_up_answers_the_same(monkeypatch, kind, policy):
    model = model_of(kind)
    wanted = prompts([5, 60])
    batch = warmed(monkeypatch, model, POLICIES[policy], 3)
    for sampling in (warming.COMMON, *warming.RARER):
        warming.sample(batch, sampling, logprobs=2)
    warming.meet_mixed(batch)
    warming.meet_together(batch, 3, 48)
    warming.learn_pace(batch, 16)
    warming.meet_beside(batch, 2, 512)
    assert batch._runner.width == len(batch) == 0
    assert answer(batch, wanted) == expected(model, wanted, TOKENS)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_answer_the_same_after_a_warm_up(monkeypatch, kind):
    model, wanted = model_of(kind), prompts([5, 60])
    batch = warmed(monkeypatch, model, METAL, 2)
    assert batch._runner.width == len(batch) == 0
    assert answer(batch, wanted) == expected(model, wanted, TOKENS)


@pytest.mark.parametrize("concurrent", [2, 3, 5, 8])
def test_the_warm_up_samples_one_row_and_several(monkeypatch, llama, concurrent):
    rows = defaultdict(set)

    def spied(name):
        plain = getattr(drawing, name)

        def spy(logits, *given, **named):
            rows[name].add(len(logits))
            return plain(logits, *given, **named)

        monkeypatch.setattr(drawing, name, spy)

    names = ("categorical_sampling", "apply_top_p", "apply_top_k", "_apply_min_p")
    monkeypatch.setattr(drawing, "_shared", lru_cache(drawing._shared.__wrapped__))  # nobody else gets spies
    for name in names:
        spied(name)
    monkeypatch.setattr(rehearsal, "SOON", 64)
    monkeypatch.setattr(rehearsal, "LATER", 64)
    warm_up = warming.WarmUp(batch_of(llama, CUDA, max_concurrent=concurrent), GPU)
    while not warm_up.warm:
        warm_up.go_on()
    assert [min(rows[name]) for name in names] == [1] * len(names)
    assert [max(rows[name]) > 1 for name in names] == [True] * len(names)


def test_after_the_warm_up_no_step_meets_a_new_prompt_shape(monkeypatch, llama):
    chunks = Flat._chunks
    seen = set()

    def spy(runner, work, **how):
        shapes, arrays = chunks(runner, work, **how)
        seen.update(
            (len(ids), shape.length, shape.reach) for shape, (ids, *_) in zip(shapes, arrays, strict=True)
        )
        return shapes, arrays

    monkeypatch.setattr(Flat, "_chunks", spy)
    batch = warmed(monkeypatch, llama, CUDA, 4)
    known = set(seen)
    answer(batch, prompts([3, 17, 60, 130, 400, 33, 31, 29, 250]))
    assert seen == known


GPU = mx.Device(mx.gpu)
"""As told to a warm-up: everything is computed on the CPU nevertheless."""


def test_whoever_comes_during_the_warm_up_is_answered_between_two_pieces(monkeypatch, llama):
    monkeypatch.setattr(rehearsal, "SOON", 64)
    monkeypatch.setattr(rehearsal, "LATER", 128)
    keeper = Everything()
    batch = batch_of(llama, CUDA, keeper=keeper)
    warm_up = warming.WarmUp(batch, GPU)
    wanted, pieces, answers = prompts([20, 50]), 0, []
    while not warm_up.warm:
        warm_up.go_on()
        pieces += 1
        if pieces % 7 == 0:
            answers.append(answer(batch, wanted))
    assert warm_up.warm
    assert pieces > 14
    assert not warm_up.go_on()  # whoever waited for it is about to ask
    assert all(each == expected(llama, wanted, TOKENS) for each in answers)
    assert {len(tokens) for tokens in keeper.known} == {
        19 + TOKENS,
        49 + TOKENS,
    }  # all but the last, which no pass has read
    assert batch._schedule._pace.trying is None


def test_an_engine_that_is_always_asked_counts_as_warm_in_the_end(monkeypatch, llama):
    monkeypatch.setattr(rehearsal, "SOON", 64)
    monkeypatch.setattr(rehearsal, "LATER", 64)
    warm_up = warming.WarmUp(batch_of(llama, CUDA), GPU)
    assert warm_up.go_on()
    warm_up._began -= 2 * warming.IMPATIENCE  # it took long, but nobody was there
    warm_up.leave_off()
    assert not warm_up.warm
    monkeypatch.setattr(warming, "IMPATIENCE", 0.0)
    warm_up.leave_off()
    assert warm_up.warm
    assert not warm_up.go_on()  # somebody was there just now
    warm_up._asked -= warming.QUIET
    assert warm_up.go_on()  # what is left is met all the same, once nobody is there


def test_what_took_long_by_itself_is_no_service(monkeypatch, llama):
    monkeypatch.setattr(rehearsal, "SOON", 64)
    monkeypatch.setattr(rehearsal, "LATER", 64)
    warm_up = warming.WarmUp(batch_of(llama, CUDA), GPU)
    warm_up.leave_off()
    warm_up._asked -= 2 * warming.IMPATIENCE  # a step in which a kernel was compiled
    warm_up.leave_off()
    assert not warm_up.warm
    for _ in range(int(warming.IMPATIENCE / warming.MOMENT)):
        warm_up._asked -= warming.MOMENT
        warm_up.leave_off()
    assert warm_up.warm


def test_once_all_is_met_what_that_took_is_given_back_and_no_more_is_done(monkeypatch, llama):
    monkeypatch.setattr(rehearsal, "SOON", 64)
    monkeypatch.setattr(rehearsal, "LATER", 64)
    monkeypatch.setattr(warming, "QUIET", 0.0)
    warm_up, given = warming.WarmUp(batch_of(llama, CUDA), GPU), []

    def give_back():
        given.append(warm_up.warm)
        device.give_back()

    monkeypatch.setattr(warming, "give_back", give_back)
    while warm_up.go_on():
        pass
    assert given == [False, True]
    assert mx.get_cache_memory() == 0
    assert not warm_up.go_on()
    assert len(given) == 2


def test_one_slot_is_warmed_up_too(monkeypatch, llama):
    monkeypatch.setattr(rehearsal, "SOON", 64)
    monkeypatch.setattr(rehearsal, "LATER", 64)
    batch = batch_of(llama, CUDA, max_concurrent=1)
    warm_up = warming.WarmUp(batch, GPU)
    while not warm_up.warm:
        assert warm_up.go_on()
    wanted = prompts([20, 5])
    assert answer(batch, wanted) == expected(llama, wanted, TOKENS)


def test_a_cpu_is_warm_at_once(llama):
    warm_up = warming.WarmUp(batch_of(llama), mx.default_device())
    assert not warm_up.go_on()
    assert warm_up.warm


def test_a_cpu_is_warm_though_somebody_asks(llama):
    warm_up = warming.WarmUp(batch_of(llama), mx.default_device())
    warm_up.leave_off()
    assert warm_up.warm


def spread(monkeypatch, model, policy, parts):
    """A batch whose chunks are spread over so many steps of those who decode."""
    monkeypatch.setattr(SlicedPace, "parts", lambda *_: parts)
    batch = batch_of(model, policy)
    batch._schedule._pace._plain[1] = 1.0  # some step was seen
    return batch


@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("kind", PLAIN)
def test_a_chunk_in_parts_gives_the_same_while_others_go_on(monkeypatch, kind, parts):
    model = model_of(kind)
    long, *wanted = prompts([300, 5, 60])
    batch = spread(monkeypatch, model, replace(CUDA, compiled=False), parts)
    first, last = {}, {}
    begun(batch, wanted[0], 60)
    for number, prompt in enumerate((long, wanted[1])):
        batch.insert(Submit(number, tuple(prompt), TOKENS, ()))
    answers, steps = {}, 0
    while len(batch):
        steps += 1
        for output in batch.step():
            answers.setdefault(output.request, []).extend(output.tokens)
            first.setdefault(output.request, steps)
            last[output.request] = steps
    assert [answers[0], answers[1]] == expected(model, [long, wanted[1]], TOKENS)
    assert first[0] > parts
    assert len(answers[100]) == last[100] == 59  # one with each step


def test_a_chunk_in_parts_is_computed_at_once_when_nobody_decodes_any_more(monkeypatch, llama):
    long, short = prompts([300, 5])
    batch = spread(monkeypatch, llama, replace(CUDA, compiled=False), 16)
    begun(batch, short, 5)
    batch.insert(Submit(0, tuple(long), TOKENS, ()))
    batch.step()
    assert batch._schedule._slices
    batch.remove(100)
    answers = []
    while len(batch):
        answers += [token for output in batch.step() for token in output.tokens]
    assert [answers] == expected(llama, [long], TOKENS)


def test_a_chunk_in_parts_for_which_nobody_waits_any_more_is_forgotten(monkeypatch, llama):
    long, short = prompts([300, 5])
    batch = spread(monkeypatch, llama, replace(CUDA, compiled=False), 16)
    begun(batch, short, 40)
    batch.insert(Submit(0, tuple(long), TOKENS, ()))
    batch.step()
    batch.remove(0)
    batch.step()
    assert batch._schedule._slices is None
    batch.insert(Submit(1, tuple(long), TOKENS, ()))
    answers = []
    while len(batch):
        answers += [token for output in batch.step() if output.request == 1 for token in output.tokens]
    assert [answers] == expected(llama, [long], TOKENS)
