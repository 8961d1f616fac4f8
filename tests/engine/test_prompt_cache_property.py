"""Whatever happens to the prompt cache, answers are what they are without it."""

import os
import random
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pensieved.engine.worker.passes.shapes import CUDA
from pensieved.engine.worker.prompt_cache.policy import Policy
from support.batches import VOCABULARY, Machine, plain_model, sliding_model, state_space_model

pytestmark = pytest.mark.slow

SMALL = Policy(taken=3, kept=3, lasting=3, stopped=12, fetched=6, waste=8, filed=16, refiled=6)
MODELS = {
    "plain": plain_model,
    "padded": plain_model,
    "sliding": sliding_model,
    "state space": state_space_model,
}
LENGTH = 6

QUESTION = st.tuples(
    st.integers(0, 7),  # which of the earlier conversations goes on
    st.integers(0, 100),  # with how much of it
    st.integers(1, 40),  # and how many new tokens
    st.integers(0, 3),  # from which the same ones come again
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.lists(QUESTION, min_size=1, max_size=3)),
        st.tuples(st.just("shed"), st.integers(0, 30_000)),
        st.tuples(st.just("restart"), st.booleans()),
        st.tuples(st.just("flip"), st.tuples(st.integers(0, 20), st.floats(0, 1))),
        st.tuples(st.just("cut"), st.tuples(st.integers(0, 20), st.floats(0, 1))),
        st.tuples(st.just("swap"), st.tuples(st.integers(0, 20), st.integers(0, 20))),
        st.tuples(st.just("delete"), st.integers(0, 20)),
    ),
    min_size=3,
    max_size=10,
)


def check(answered, expected):
    """The same, token for token; where two are equally likely but for rounding, both are right, and what follows is other."""
    pairs = zip(answered.tokens, expected.tokens, strict=True)
    same = next((place for place, pair in enumerate(pairs) if len(set(pair)) > 1), LENGTH)
    assert answered.logprobs[: same + 1] == pytest.approx(expected.logprobs[: same + 1], abs=1e-4)
    if same < LENGTH:
        event("two tokens were equally likely")


@lru_cache
def reference(name):
    """The model, and what answers without a cache; answers are remembered."""
    model = MODELS[name]()
    machine = Machine(model, budget=0)  # in shapes of its own: for the cache, it makes no difference
    known = {}

    def answer(prompt):
        if prompt not in known:
            (known[prompt],) = machine.ask(prompt, max_tokens=LENGTH)
        return known[prompt]

    return model, answer


class World:
    """An engine that lives on one folder, and the conversations with it."""

    def __init__(self, name, folder):
        self.name = name
        self.model, self.answer = reference(name)
        self.folder = folder / "model+one"
        self.said = [()]
        self.start()

    def start(self):
        self.machine = Machine(
            self.model,
            budget=120_000,
            folder=self.folder,
            quota=400_000,
            policy=SMALL,
            chunk=16,
            shapes=CUDA if self.name == "padded" else None,
        )

    def ask(self, questions):
        prompts = [self.prompt(*question) for question in questions]
        marks = sorted({len(self.said[0]), *(len(prompt) // 2 for prompt in prompts)} - {0})
        found = self.machine.ask(*prompts, max_tokens=LENGTH, breakpoints=marks)
        for prompt, answered in zip(prompts, found, strict=True):
            check(answered, self.answer(prompt))
            assert answered.recalled.cached <= min(answered.recalled.matched, len(prompt) - 1)
            self.said.append((*prompt, *answered.tokens))

    def prompt(self, which, share, new, seed):
        base = self.said[which % len(self.said)]
        chance = random.Random(seed)
        return (*base[: len(base) * share // 100], *(chance.randrange(VOCABULARY) for _ in range(new)))

    def shed(self, budget):
        self.machine.keeper.shed(budget)

    def restart(self, peacefully):
        if peacefully:
            self.machine.close()
        else:  # as much as a kill is here: nobody waits for what is being written
            self.machine.disk._writing.shutdown(wait=True, cancel_futures=True)
            self.machine.close()
        self.start()

    def files(self):
        self.machine.disk.flush()
        return sorted(self.folder.glob("*.kv"))

    def flip(self, where):
        which, place = where
        if files := [path for path in self.files() if path.stat().st_size]:
            path = files[which % len(files)]
            data = bytearray(path.read_bytes())
            data[int(place * (len(data) - 1))] ^= 0x40
            path.write_bytes(data)

    def cut(self, where):
        which, share = where
        if files := self.files():
            path = files[which % len(files)]
            os.truncate(path, int(path.stat().st_size * share))

    def swap(self, pair):
        if files := self.files():
            one, other = (files[which % len(files)] for which in pair)
            if one != other:
                shutil.copy(one, other)

    def delete(self, which):
        if files := self.files():
            files[which % len(files)].unlink()


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25)
@given(actions=ACTIONS)
def test_nobody_can_tell(name, actions):
    with tempfile.TemporaryDirectory() as folder:
        world = World(name, Path(folder))
        try:
            for action, argument in actions:
                getattr(world, action)(argument)
            world.ask(
                [(number, 100, 5, 1) for number in range(1, min(4, len(world.said)))] or [(0, 0, 20, 1)]
            )
        finally:
            world.machine.close()
