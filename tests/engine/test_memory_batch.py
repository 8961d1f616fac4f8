"""The memory guard in the batch: a machine that has as much as the test gives, and what MLX takes of it is real."""

from dataclasses import replace
from itertools import chain

import mlx.core as mx
import pytest

from pensieved.engine.protocol import FinishReason, Sampling, Submit
from pensieved.engine.worker import warming
from pensieved.engine.worker.batch import PARTS_OF_MEMORY, Batch
from pensieved.engine.worker.memory import gate
from pensieved.engine.worker.memory.guard import INTERVAL, Guard
from pensieved.engine.worker.passes.flat import Flat
from pensieved.engine.worker.passes.shapes import CUDA
from pensieved.engine.worker.prompt_cache.keeper import PromptCache
from pensieved.engine.worker.prompt_cache.policy import CPU
from pensieved.engine.worker.refusal import RefusedRequestError
from support.memories import MIB, WIDE_TOKEN, Clock, SmallMachine, wide_model

DEVICE = mx.Device(mx.cpu)
MARGIN = 2 * MIB
PLENTY = 1 << 40


@pytest.fixture(scope="module", autouse=True)
def _few_freed_buffers():
    before = mx.set_cache_limit(MIB // 4)  # of these machines' 8 MiB, MLX's own 32 would be too many
    yield
    mx.set_cache_limit(before)


@pytest.fixture(scope="module")
def model():
    return wide_model()


def prompt(number, length=120):
    return tuple((7 * place + 13 * number) % 64 for place in range(length))


class Scene:
    """A batch on a machine of its own."""

    def __init__(self, model, total=PLENTY, *, keeps=0, margin=MARGIN):
        self.keeper = None
        if keeps:
            self.keeper = PromptCache(plain=True, policy=CPU, budget=keeps, report=lambda _: None)
        self.batch = Batch(model, DEVICE, max_concurrent=8, prefill_chunk=64, keeper=self.keeper)
        self.machine = SmallMachine(total)
        self.clock = Clock()
        self.batch.guard(Guard(self.machine, margin, self.keeper, self.clock))
        self.answers, self.finish, self.refused = {}, {}, {}

    def ask(self, number, tokens=24, *, length=120, **more):
        self.batch.insert(Submit(number, prompt(number, length), tokens, (), **more))

    def turns(self, count=1, until=lambda: False):
        """Turns of the engine's loop, a tenth of a second each on the batch's clock; fewer once `until` holds."""
        for _ in range(count):
            if until():
                return
            self.clock.now += INTERVAL / 10
            self.batch.watch()
            for output in self.batch.step() if len(self.batch) else ():
                self.answers.setdefault(output.request, []).extend(output.tokens)
                if output.finish:
                    self.finish[output.request] = output.finish
            self.refused |= {each.request: each for each in self.batch.take_refusals()}

    def finished(self, *numbers):
        self.turns(4000, lambda: all(number in self.finish for number in numbers))
        assert all(number in self.finish for number in numbers)
        return [self.answers[number] for number in numbers]

    def begun(self, number):
        return len(self.answers.get(number, ())) > 0


@pytest.fixture(scope="module")
def alone(model):
    """The answer to each of four prompts, where there is memory for all."""
    scene = Scene(model)
    for number in range(4):
        scene.ask(number)
    return dict(enumerate(scene.finished(*range(4))))


def row(tokens):
    return tokens * WIDE_TOKEN


def test_a_request_that_has_no_room_waits_and_goes_on_when_another_ends(model, alone):
    scene = Scene(model, MARGIN + 2 * row(160) + MIB)
    for number in range(3):
        scene.ask(number)
    scene.turns(15)
    assert scene.begun(0)
    assert scene.begun(1)
    assert not scene.begun(2)
    assert scene.batch.memory.waiting == 1
    assert scene.batch.memory.closed  # it has waited for more than a second
    assert scene.finished(0, 1, 2) == [alone[number] for number in range(3)]
    scene.turns(1)
    assert (scene.batch.memory.waiting, scene.batch.memory.closed) == (0, False)


def test_running_requests_survive_what_others_take_and_waiting_ones_go_on_afterwards(model, alone):
    scene = Scene(model, MARGIN + 4 * row(192))
    scene.ask(0)
    scene.ask(1)
    scene.turns(400, lambda: scene.begun(0) and scene.begun(1))
    scene.machine.others = scene.machine.total - MARGIN // 4 - row(2 * 160)
    scene.turns(11)
    assert scene.batch.memory.closed
    scene.ask(2)
    assert scene.finished(0) == [alone[0]]
    scene.turns(20)
    assert not scene.begun(2)
    scene.machine.others = 0
    assert scene.finished(1, 2) == [alone[1], alone[2]]
    assert not scene.batch.memory.closed
    assert not scene.refused


def test_the_prompt_cache_goes_before_anybody_waits(model, alone):
    scene = Scene(model, MARGIN + 2 * row(192), keeps=PLENTY)
    scene.ask(3)
    assert scene.finished(3) == [alone[3]]
    scene.turns(2)
    assert scene.keeper.used >= row(128)
    scene.ask(0)
    scene.ask(1)
    scene.turns(400, lambda: scene.begun(0) and scene.begun(1))
    assert scene.begun(1)
    assert not scene.finish.keys() & {0, 1}  # both at once
    assert scene.keeper.used == 0
    assert scene.batch.memory.shed >= row(128)
    assert (scene.batch.memory.waiting, scene.batch.memory.closed) == (0, False)
    assert scene.finished(0, 1) == [alone[0], alone[1]]


def test_the_prompt_cache_takes_no_memory_that_is_reserved(model):
    scene = Scene(model, MARGIN + 2 * row(192), keeps=PLENTY)
    for number in range(6):
        scene.ask(number)
    scene.finished(*range(6))
    scene.turns(11)
    assert scene.keeper.used < 2 * row(192)
    scene.ask(6)  # alone: whether pairs leave room depends on when each ends
    scene.finished(6)
    scene.turns(11)
    assert row(100) <= scene.keeper.used < 2 * row(192)
    assert scene.machine.read().available + mx.get_cache_memory() >= MARGIN


def test_what_can_never_fit_is_refused_at_once_and_says_why(model):
    scene = Scene(model, MARGIN + row(200))
    with pytest.raises(RefusedRequestError) as caught:
        scene.ask(0, length=400)
    assert "400 tokens and needs 7 MiB" in str(caught.value)
    assert "there are 3 MiB" in str(caught.value)
    assert "2 MiB are left to the rest of the machine" in str(caught.value)
    assert "memory.safety_margin" in str(caught.value)
    assert not len(scene.batch)


def test_an_answer_that_outgrows_the_machine_ends_there(model, alone):
    scene = Scene(model, MARGIN + row(140))
    scene.ask(0, tokens=30_000)
    scene.finished(0)
    assert scene.finish[0] is FinishReason.LENGTH
    assert 120 + len(scene.answers[0]) in range(124, 141)
    assert scene.answers[0] == alone[0][: len(scene.answers[0])]


def test_who_waits_in_vain_is_told_that_it_is_too_much_now(model, alone):
    scene = Scene(model, MARGIN + 2 * row(192))
    scene.turns(11)
    scene.machine.others = scene.machine.total - MARGIN - MIB
    scene.ask(0)
    scene.turns(20)
    assert scene.batch.memory.closed
    assert not scene.refused
    scene.clock.now += gate.PATIENCE
    scene.turns(2)
    assert scene.refused[0].overloaded
    assert "too little memory at the moment" in scene.refused[0].message
    assert not len(scene.batch)
    scene.machine.others = 0
    scene.turns(11)
    assert not scene.batch.memory.closed
    scene.ask(0)
    assert scene.finished(0) == [alone[0]]


def test_how_long_somebody_waited_who_left_is_not_counted_for_the_next(model):
    scene = Scene(model, MARGIN + 2 * row(192))
    scene.turns(11)
    scene.machine.others = scene.machine.total - MARGIN - MIB
    scene.ask(0)
    scene.turns(20)
    scene.batch.remove(0)
    scene.clock.now += 10 * gate.PATIENCE
    scene.ask(1)
    scene.turns(20)
    assert not scene.refused


def test_of_those_who_wait_in_vain_each_gets_a_last_try(model):
    scene = Scene(model, MARGIN + 2 * row(192))
    scene.turns(11)
    scene.machine.others = scene.machine.total - scene.machine.before - MARGIN - 3 * MIB // 2
    for number in (0, 1):
        scene.ask(number)
    scene.ask(2, 8, length=20)
    scene.turns(20)
    assert scene.batch.memory.waiting == 3
    scene.clock.now += gate.PATIENCE
    scene.finished(2)
    assert scene.refused.keys() == {0, 1}
    assert len(scene.answers[2]) == 8


def test_it_opens_by_itself_while_nothing_runs(model):
    scene = Scene(model, MARGIN + 2 * row(192))
    scene.machine.others = scene.machine.total
    scene.turns(11)
    assert scene.batch.memory.closed
    scene.machine.others = 0
    scene.turns(11)
    assert not scene.batch.memory.closed


def test_a_warm_up_waits_for_nobodys_memory(model):
    scene = Scene(model, MARGIN + 2 * row(192))
    scene.machine.others = scene.machine.total
    scene.turns(11)
    assert scene.batch.memory.closed
    with scene.batch.unremembered():
        warming.sample(scene.batch, Sampling())
    assert not len(scene.batch)
    assert not scene.batch.take_refusals()
    assert scene.batch.memory.closed


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=5)])
def test_when_memory_is_nearly_out_the_youngest_is_put_back_and_says_the_same_later(model, sampling):
    free = Scene(model)
    for number in range(2):
        free.ask(number, 60, sampling=sampling)
    wanted = free.finished(0, 1)
    scene = Scene(model, MARGIN + 4 * row(256))
    for number in range(2):
        scene.ask(number, 60, sampling=sampling)
    scene.turns(400, lambda: len(scene.answers.get(1, ())) > 5)
    scene.machine.others = scene.machine.total - MARGIN // 4 - row(2 * 200)
    scene.turns(11)
    assert scene.batch.memory.waiting == 1
    so_far = len(scene.answers[1])
    assert scene.finished(0) == [wanted[0]]
    assert len(scene.answers[1]) == so_far < 60
    scene.machine.others = 0
    assert scene.finished(1) == [wanted[1]]


def test_the_last_one_that_runs_is_never_put_back(model, alone):
    scene = Scene(model, MARGIN + 4 * row(192))
    scene.ask(0)
    scene.turns(400, lambda: scene.begun(0))
    scene.machine.others = scene.machine.total
    assert scene.finished(0) == [alone[0]]


def test_earlier_requests_go_first_and_those_that_are_cancelled_leave_the_line(model):
    scene = Scene(model, MARGIN + row(192) + MIB // 2)
    scene.ask(1, 4)
    scene.turns(1)
    for number in (3, 2, 0):
        scene.ask(number, 4)
    scene.turns(1)
    assert scene.batch.memory.waiting == 3
    scene.batch.remove(2)
    scene.turns(1)
    scene.finished(0, 1, 3)
    assert list(scene.finish) == [1, 0, 3]
    assert not len(scene.batch)


@pytest.mark.parametrize("room", [600, 3000])
def test_a_warm_up_brings_no_prompt_that_takes_much_of_what_requests_could_have(monkeypatch, model, room):
    shapes = replace(CUDA, compiled=False)
    batch = Batch(model, DEVICE, max_concurrent=2, prefill_chunk=64, shapes=shapes)
    machine = SmallMachine(MARGIN + PARTS_OF_MEMORY * room * WIDE_TOKEN)
    batch.guard(Guard(machine, MARGIN, clock=Clock()))
    met, opened = [], Flat.open
    monkeypatch.setattr(
        Flat, "open", lambda flat, lengths, *rest: met.append(max(lengths)) or opened(flat, lengths, *rest)
    )
    for _ in chain(batch.first_passes(), batch.further_passes()):
        pass
    assert room // 3 < max(met) <= room
