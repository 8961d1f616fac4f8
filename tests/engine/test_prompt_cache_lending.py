"""What is read from disk for one request alone becomes its own cache, and comes back when it ends."""

import mlx.core as mx
import pytest

from pensieved.engine.protocol import Submit
from pensieved.engine.worker.passes import runner
from pensieved.engine.worker.prompt_cache.policy import Policy
from support.batches import Machine, plain_model, text

SMALL = Policy(taken=4, kept=4, lasting=4, stopped=16, fetched=6, waste=8, filed=32, refiled=8)
LONG = 3000


@pytest.fixture(scope="module")
def plain():
    return plain_model()


@pytest.fixture
def start(tmp_path, plain):
    """Starts an engine on a folder in which another one has left the first 90 tokens of `text`, or as many as are asked for."""
    made = []

    def begin(length=90):
        before = Machine(plain, folder=tmp_path / "model", policy=SMALL)
        before.ask(text(length, 1), max_tokens=1)
        before.close()
        made.append(Machine(plain, folder=tmp_path / "model", policy=SMALL))
        return made[-1]

    yield begin
    for machine in made:
        machine.close()


@pytest.fixture
def reads(monkeypatch):
    """Counts what is read from disk."""
    from pensieved.engine.worker.prompt_cache.disk import Disk  # noqa: PLC0415

    seen, read = [], Disk.read
    monkeypatch.setattr(Disk, "read", lambda *args: seen.append(args) or read(*args))
    return seen


def begun(machine, number, prompt, tokens=8):
    """A request that runs, and what it has answered so far."""
    machine.batch.insert(Submit(number, tuple(prompt), tokens, ()))
    answer = []
    while not answer:
        answer += [
            token for output in machine.batch.step() if output.request == number for token in output.tokens
        ]
    return answer


def ended(machine, answers):
    while len(machine.batch):
        for output in machine.batch.step():
            answers.setdefault(output.request, []).extend(output.tokens)
    return answers


@pytest.mark.parametrize("library", [False, True])
def test_it_is_lent_and_given_back(start, plain, reads, monkeypatch, library):
    prompt = [*text(90, 1), *text(10, 2)]
    wanted = Machine(plain, budget=0).ask(prompt)[0].tokens
    if library:
        monkeypatch.setattr(runner, "flat_for", lambda *_: None)
    machine = start()
    answer = begun(machine, 1, prompt)
    (entry,) = machine.disk._entries.values()
    assert machine.recalled[-1].cached == 89
    assert entry.arrays is None
    assert machine.keeper.used == 0
    assert ended(machine, {1: answer}) == {1: wanted}
    assert [array.shape[2] for array in entry.arrays] == [89] * len(entry.arrays)
    assert machine.keeper.used >= entry.nbytes
    assert machine.ask(prompt)[0].tokens == wanted
    assert machine.recalled[-1].cached > 89  # and what followed
    assert len(reads) == 1


@pytest.fixture
def parted(tmp_path, plain):
    """An engine after another one was asked for two prompts that begin alike, and these."""
    system = text(70, 1)
    others, mine = [*system, *text(60, 2)], [*system, *text(300, 3)]
    before = Machine(plain, folder=tmp_path / "model", policy=SMALL)
    before.ask(others, max_tokens=1)
    before.ask(mine, max_tokens=1)
    before.close()
    machine = Machine(plain, folder=tmp_path / "model", policy=SMALL)
    yield machine, others, mine
    machine.close()


def test_of_what_continues_another_the_last_is_lent(parted, plain, reads):
    machine, others, mine = parted
    prompt = [*mine, *text(10, 4)]
    answer = begun(machine, 1, prompt)
    first, last = sorted(machine.disk._entries.values(), key=lambda entry: entry.start)
    assert last.parent is first
    assert first.arrays is not None
    assert last.arrays is None
    assert machine.recalled[-1].cached == len(mine) - 1
    wanted = Machine(plain, budget=0).ask(prompt)[0].tokens
    assert ended(machine, {1: answer}) == {1: wanted}
    assert [array.shape[2] for array in last.arrays] == [last.end - last.start] * len(last.arrays)
    assert machine.ask(prompt)[0].tokens == wanted
    assert machine.ask([*others, *text(10, 5)])[0].recalled.cached >= len(others) - 1
    assert len(reads) == 2


@pytest.mark.parametrize("later", [False, True])
def test_what_several_want_is_as_it_was(parted, plain, reads, later):
    machine, _, mine = parted
    prompts = [[*mine, *text(10, seed)] for seed in (4, 5)]
    wanted = [each.tokens for each in Machine(plain, budget=0).ask(*prompts)]
    machine.batch.insert(Submit(1, tuple(prompts[0]), 8, ()))
    if later:  # the second comes when what the first waits for was read
        for reading in list(machine.keeper._reading.values()):
            reading.result()
        machine.keeper._settle()
    machine.batch.insert(Submit(2, tuple(prompts[1]), 8, ()))
    answers = ended(machine, {})
    assert [answers[1], answers[2]] == wanted
    assert [each.cached for each in machine.recalled] == [len(mine) - 1] * 2
    assert len(reads) == 2


def test_it_is_not_copied(start):
    machine = start(LONG)
    mx.clear_cache()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    begun(machine, 1, [*text(LONG, 1), *text(10, 2)])
    (entry,) = machine.disk._entries.values()
    assert machine.recalled[-1].cached == LONG - 1
    assert entry.nbytes < mx.get_peak_memory() - held < 2 * entry.nbytes  # scores, too


def test_two_that_come_together_both_have_it(start, plain, reads):
    prompts = [[*text(90, 1), *text(10, seed)] for seed in (2, 3)]
    wanted = [each.tokens for each in Machine(plain, budget=0).ask(*prompts)]
    machine = start()
    answered = machine.ask(*prompts)
    assert [each.recalled.cached for each in answered] == [89, 89]
    assert [each.tokens for each in answered] == wanted
    assert len(reads) == 1


def test_one_that_comes_while_it_is_lent_reads_it_again(start, plain, reads):
    prompts = [[*text(90, 1), *text(10, seed)] for seed in (2, 3)]
    wanted = [each.tokens for each in Machine(plain, budget=0).ask(*prompts)]
    machine = start()
    first = begun(machine, 1, prompts[0])
    machine.batch.insert(Submit(2, tuple(prompts[1]), 8, ()))
    answers = ended(machine, {1: first})
    assert [answers[1], answers[2]] == wanted
    assert all(each.cached >= 89 for each in machine.recalled)
    assert len(reads) == 2
    (entry,) = machine.disk._entries.values()
    assert entry.arrays is not None


def test_one_that_goes_gives_it_back(start):
    machine = start()
    begun(machine, 1, [*text(90, 1), *text(10, 2)], tokens=100)
    machine.batch.remove(1)
    (entry,) = machine.disk._entries.values()
    assert entry.arrays is not None
    assert machine.cached([*text(90, 1), *text(10, 3)]) >= 89


def test_one_that_goes_before_it_has_begun_leaves_it_on_disk(start):
    machine = start()
    machine.batch.insert(Submit(1, (*text(90, 1), *text(10, 2)), 8, ()))
    machine.batch.remove(1)
    assert machine.cached([*text(90, 1), *text(10, 3)]) >= 89
    assert machine.cached([*text(90, 1), *text(10, 4)]) >= 89


def test_a_prompt_that_begins_with_a_part_of_it_has_a_copy(start, plain):
    prompt = [*text(90, 1)[:60], *text(10, 2)]
    machine = start()
    (answered,) = machine.ask(prompt)
    assert answered.recalled.cached == 60
    assert answered.tokens == Machine(plain, budget=0).ask(prompt)[0].tokens
    assert machine.cached([*text(90, 1), *text(10, 3)]) >= 89


@pytest.mark.parametrize("known", [60, 88])
def test_what_the_request_does_not_begin_with_comes_back_too(start, plain, reads, known):
    prompt, whole = [*text(90, 1)[:known], *text(10, 2)], [*text(90, 1), *text(10, 3)]
    wanted = [each.tokens for each in Machine(plain, budget=0).ask(prompt, whole)]
    machine = start()
    answer = begun(machine, 1, prompt)
    (entry,) = machine.disk._entries.values()
    assert entry.arrays is None
    assert machine.recalled[-1].cached == known
    assert ended(machine, {1: answer}) == {1: wanted[0]}
    (answered,) = machine.ask(whole)
    assert answered.recalled.cached == 89
    assert answered.tokens == wanted[1]
    assert len(reads) == 1


def test_one_that_is_longer_than_the_room_is_copied(start, plain):
    prompt = [*text(500, 1)[:60], *text(3, 2)]
    machine = start(500)
    assert machine.ask(prompt)[0].tokens == Machine(plain, budget=0).ask(prompt)[0].tokens
    assert machine.cached([*text(500, 1), 5]) == 499
