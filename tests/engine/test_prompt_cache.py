"""The prompt cache in memory: what is taken, what is kept, and that nobody can tell from the answers."""

import pytest

from pensieved.engine.protocol import Submit
from pensieved.engine.worker.prompt_cache.policy import GPU, memory_for
from pensieved.engine.worker.running import Running
from support.batches import MODELS, VOCABULARY, Machine, plain_model, sliding_model, text


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def plain():
    return plain_model()


@pytest.fixture(scope="module")
def sliding():
    return sliding_model()


def same(model, machine, *prompts, **options):
    """Ask with and without a cache; the answers with it, which must be the same."""
    expected = Machine(model, budget=0).ask(*prompts, **options)
    found = machine.ask(*prompts, **options)
    for one, other in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    return found


def test_a_conversation_goes_on_where_it_was(model):
    machine = Machine(model)
    prompt = text(90, 1)
    (first,) = same(model, machine, prompt, max_tokens=20)
    assert (first.recalled.cached, first.recalled.matched) == (0, 0)
    prompt = [*prompt, *first.tokens, *text(30, 2)]
    (second,) = same(model, machine, prompt, max_tokens=20)
    assert second.recalled.cached == 90 + 19  # nothing followed the last token, so it was never computed
    (third,) = same(model, machine, [*prompt, *second.tokens, 5])
    assert third.recalled.cached == len(prompt) + 19


def test_the_same_prompt_again_computes_one_token(model):
    machine = Machine(model)
    same(model, machine, text(90, 1))
    (again,) = same(model, machine, text(90, 1))
    assert again.recalled.cached == 89


def test_prompts_that_come_together_share_what_the_first_computes(model):
    machine = Machine(model)
    shared = text(100, 3)
    prompts = [[*shared, *text(10 + number, number)] for number in range(4)]
    answered = same(model, machine, *prompts, breakpoints=(100,))
    assert [each.recalled.cached for each in answered] == [0, 100, 100, 100]


def test_a_breakpoint_is_kept_where_the_cache_cannot_be_cut(sliding):
    machine = Machine(sliding)
    system = text(80, 4)
    machine.ask([*system, *text(30, 5)], breakpoints=(80,))
    (other,) = same(sliding, machine, [*system, *text(30, 6)])
    assert other.recalled.cached == 80
    (without,) = same(sliding, Machine(sliding), [*system, *text(30, 6)])
    assert without.recalled.cached == 0


def test_a_plain_cache_is_cut_anywhere(plain):
    machine = Machine(plain)
    machine.ask(text(100, 7))
    (other,) = same(plain, machine, [*text(100, 7)[:43], *text(60, 8)])
    assert other.recalled.cached == 43


def test_a_miss_says_where_and_what_the_cache_has_instead(model):
    machine = Machine(model)
    prompt = text(100, 9)
    machine.ask(prompt)
    changed = [*prompt[:40], (prompt[40] + 1) % VOCABULARY, *prompt[41:]]
    recalled = machine.ask(changed)[0].recalled
    assert recalled.matched == 40
    assert list(recalled.instead) == prompt[40:48]


def test_a_miss_where_conversations_part_shows_the_other_one(plain):
    machine = Machine(plain)
    prompt = text(60, 10)
    one, other, third = ([*prompt, first, *text(40, first)] for first in (1, 2, 3))
    machine.ask(one)
    machine.ask(other)
    recalled = machine.ask(third)[0].recalled
    assert recalled.matched == 60
    assert recalled.instead[0] in {1, 2}


def test_shared_prefixes_are_held_once(plain):
    machine = Machine(plain)
    shared = text(200, 11)
    machine.ask([*shared, *text(20, 0)], max_tokens=1)
    alone = machine.keeper.stats.memory
    for number in range(1, 5):
        machine.ask([*shared, *text(20, number)], max_tokens=1)
    assert machine.keeper.stats.memory < alone * 1.6


def test_the_budget_holds_and_the_oldest_goes_first(model):
    machine = Machine(model)
    machine.ask(text(90, 1), max_tokens=1)
    each = machine.keeper.stats.memory
    machine = Machine(model, budget=3 * each)
    for seed in range(6):
        machine.ask(text(90, seed), max_tokens=1)
        assert machine.keeper.stats.memory <= 3 * each
    assert machine.cached(text(90, 5)) == 89
    assert machine.cached(text(90, 0)) == 0


def test_what_is_used_stays(plain):
    machine = Machine(plain)
    machine.ask(text(90, 1), max_tokens=1)
    machine = Machine(plain, budget=3 * machine.keeper.stats.memory)
    for seed in range(6):
        machine.ask([*text(60, 100), *text(30, seed)], max_tokens=1)
    assert machine.cached([*text(60, 100), 1, 2, 3]) == 60


def test_shedding_frees_and_does_no_harm(model):
    machine = Machine(model)
    machine.ask(text(90, 1), text(80, 2))
    held = machine.keeper.stats.memory
    assert machine.keeper.shed(0) == held > 0
    assert machine.keeper.stats.entries == 0
    (answered,) = same(model, machine, text(90, 1))
    assert answered.recalled.cached == 0


def test_shedding_while_a_request_is_under_way(model):
    machine = Machine(model)
    prompt = [*text(90, 1), *text(70, 2)]
    machine.ask(text(90, 1))
    expected = Machine(model, budget=0).ask(prompt)[0].tokens
    tokens = []
    machine.batch.insert(submit(prompt))
    while len(machine.batch):
        for output in machine.batch.step():
            tokens += output.tokens
        machine.keeper.shed(0)
    assert tokens == expected


def test_a_cancelled_answer_is_kept_as_far_as_it_came(model):
    machine = Machine(model)
    prompt, tokens = text(40, 1), []
    machine.batch.insert(submit(prompt, max_tokens=100))
    while len(tokens) < 50:
        tokens += [token for output in machine.batch.step() for token in output.tokens]
    machine.batch.remove(1000)
    assert not len(machine.batch)
    (answered,) = same(model, machine, [*prompt, *tokens, 3])
    assert answered.recalled.cached == len(prompt) + len(tokens) - 1  # no pass followed the last one


def test_a_request_cancelled_while_it_waits_or_is_computed(model):
    machine = Machine(model, chunk=16)
    machine.batch.insert(submit(text(90, 1), request=1000))
    machine.batch.insert(submit(text(90, 1), request=1001))
    machine.batch.step()
    machine.batch.remove(1000)
    while len(machine.batch):
        machine.batch.step()
    same(model, machine, text(90, 1), text(90, 1)[:70])


def test_short_prompts_are_no_business_of_the_cache_on_a_gpu(plain):
    machine = Machine(plain, policy=GPU)
    machine.ask(*(text(100, seed) for seed in range(4)), max_tokens=20)
    assert machine.keeper.stats.entries == 0
    assert not machine.keeper.sets_apart(running(text(100, 1)))
    assert machine.keeper.sets_apart(running(text(400, 1)))


def test_before_it_is_open_it_remembers_nothing(plain):
    machine = Machine(plain)
    machine.keeper.is_open = False
    machine.ask(text(90, 1))
    assert machine.keeper.stats.entries == 0
    assert machine.recalled == []


def test_memory_that_the_settings_leave_to_the_machine():
    gib = 1 << 30
    assert memory_for(16 * gib, 3 * gib) == 2 * gib
    assert memory_for(8 * gib, 7 * gib) == gib // 4
    assert memory_for(8 * gib, 9 * gib) == 0


def submit(prompt, *, request=1000, max_tokens=8):
    return Submit(request, tuple(prompt), max_tokens, ())


def running(prompt):
    return Running(1, tuple(prompt), 1, frozenset(), None)
