"""kill -9 of the real engine in the middle of streams: what was promised to clients, token for token."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import psutil
import pytest
from tokenizers import Tokenizer

from pensieved.engine.protocol import FinishReason, Sampling
from pensieved.engine.supervisor import Engine, EngineConfig
from support import tiny

pytestmark = pytest.mark.slow

STREAMS = 8
QUESTIONS = (
    "What is the capital of France?",
    "Name three rivers.",
    "Write a poem about the sea.",
    "Why is the sky blue? Explain it to a child, in three sentences, with an example from the kitchen.",
    "Count from one to ten.",
    "Tell me a story about a lamp and a garden that nobody had seen for a hundred years.",
    "What is 2 + 2?",
    "Translate 'good morning' into French.",
)


class Streams:
    """Eight readers, each on a thread of its own, as the daemon's requests are."""

    def __init__(self, engine, prompts, max_tokens, stop=()):
        self.tokens = [[] for _ in prompts]
        self.finishes = [None] * len(prompts)
        self.errors = []
        self.generations = [
            engine.client.submit(prompt, max_tokens=max_tokens, stop_tokens=stop, sampling=Sampling())
            for prompt in prompts
        ]
        self.threads = [threading.Thread(target=self.read, args=(index,)) for index in range(len(prompts))]
        for thread in self.threads:
            thread.start()

    def read(self, index):
        try:
            while self.finishes[index] is None:
                chunk = self.generations[index].next(1.0)
                if chunk is not None:
                    self.tokens[index] += chunk.tokens
                    self.finishes[index] = chunk.finish
        except Exception as error:  # noqa: BLE001  whatever a client would have seen
            self.errors.append(error)

    def produced(self):
        return sum(map(len, self.tokens))

    def wait_for(self, more):
        """Until `more` tokens have come, or all is over; False if it is over."""
        goal = self.produced() + more
        while self.produced() < goal:
            if not any(thread.is_alive() for thread in self.threads):
                return False
            time.sleep(0.005)
        return True

    def join(self):
        for thread in self.threads:
            thread.join(300)
        assert self.errors == []
        return self.tokens


@contextmanager
def engine_of(path, cache):
    engine = Engine(EngineConfig(cache_dir=cache), lambda *_: None)
    try:
        engine.load(path, max_concurrent=STREAMS)
        yield engine
    finally:
        engine.stop(5)


def kill_another(engine, killed):
    """SIGKILL to an engine that is not in `killed` yet: tokens of a dead one may still be on their way."""
    while (pid := engine.stats.pid) is None or pid in killed:
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    killed.add(pid)


@pytest.mark.timeout(600)
def test_eight_streams_of_the_starter_model_survive_kills_unchanged(starter_model, tmp_path):
    tokenizer = Tokenizer.from_file(str(starter_model.path / "tokenizer.json"))
    prompts = [
        tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n").ids
        for question in QUESTIONS
    ]
    stop = [tokenizer.token_to_id("<|im_end|>")]
    with engine_of(starter_model.path, tmp_path) as engine:
        undisturbed = Streams(engine, prompts, 40, stop)
        expected = undisturbed.join()
        streams = Streams(engine, prompts, 40, stop)
        killed = set()
        for after in (3, 30, 60):
            assert streams.wait_for(after)
            kill_another(engine, killed)
        assert streams.join() == expected
        assert streams.finishes == undisturbed.finishes
        assert engine.stats.restarts == 3
        assert "Paris" in tokenizer.decode(expected[0])


@pytest.mark.timeout(900)
def test_a_hundred_kills_under_load(tmp_path):
    folder = tiny.write_files(tmp_path / "model", tiny.llama_files(seed=3, max_position_embeddings=4096))
    prompts = [[(index * 31 + i) % 320 for i in range(3 + 9 * index)] for index in range(STREAMS)]
    killed = set()
    with engine_of(folder, tmp_path) as engine:
        expected = Streams(engine, prompts, 200).join()
        while len(killed) < 100:
            streams = Streams(engine, prompts, 200)
            while len(killed) < 100 and streams.wait_for(1 + 3 * len(killed) % 100):
                kill_another(engine, killed)
            assert streams.join() == expected
            assert set(streams.finishes) == {FinishReason.LENGTH}
    assert not [pid for pid in killed if psutil.pid_exists(pid)]
