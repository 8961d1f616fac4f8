"""The real ceiling, the real daemon and their figures, on a tiny model."""

import asyncio

import pytest
from tokenizers import Tokenizer

from bench import contestants, prepare
from bench.prompts import story
from bench.servers import running
from support import tiny

pytestmark = pytest.mark.slow

WORK = {"concurrency": 2, "requests": 3, "tokens": 4}


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    url = str(tiny.write_files(tmp_path_factory.mktemp("tiny"), tiny.llama_files(seed=3)))
    cache = tmp_path_factory.mktemp("cache")
    model = prepare.prepared(url, "none", cache)
    return prepare.set_up(model, url, "none", cache, slots=2, gguf=None)


@pytest.mark.parametrize("name", ["ceiling", "daemon"])
def test_a_contestant_does_the_work_and_leaves_nothing_behind(name, setup, tmp_path):
    contestant = next(each for each in contestants.ALL if each.name == name)

    async def run():
        async with running(contestant, setup, tmp_path / "log", "seed") as server:
            return await server.level("s", **WORK), server.processes(), server.child.tree(), server.started

    figures, looked, family, started = asyncio.run(run())
    tokenizer = Tokenizer.from_file(str(setup.folder / "tokenizer.json"))
    least = sum(len(tokenizer.encode(story(f"s/{place}")).ids) for place in range(3))
    assert figures["faults"] == 0
    assert figures["requests"] == 3
    assert 3 <= figures["output_tokens"] <= 12
    assert least < figures["prompt_tokens"] < least + 3 * 40  # and the template
    assert {each["role"] for each in looked} == ({"server", "engine"} if name == "daemon" else {"server"})
    assert started["processes"]
    assert not any(process.is_running() for process in family)
