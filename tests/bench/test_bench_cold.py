"""What counts as compiled after a start, and that the daemon takes all that it is asked."""

import asyncio
import json

import pytest

from bench import cold
from bench.dialects import OpenAI
from bench.load import Target
from pensieved.http.openai.chat.schema import chat_decoder
from pensieved.http.openai.chat.translate import to_completion
from support.sse import answer, asked, serving


@pytest.mark.parametrize("kind", cold.KINDS)
def test_the_daemon_takes_every_kind(kind):
    for request in cold.requests(kind, "seed"):
        to_completion(chat_decoder.decode(json.dumps(OpenAI().body(request, "local"))))


def test_no_two_texts_are_the_same():
    goes = [[each for kind in cold.KINDS for each in cold.requests(kind, go)] for go in ("first", "again")]
    texts = [each.messages[-1] for go in goes for each in go]
    assert (
        len(set(texts)) == len(texts) == 2 * sum(some.count for kind in cold.KINDS.values() for some in kind)
    )


def test_a_next_turn_goes_on_from_the_same_text():
    (first,) = cold.requests("1,000 tokens", "seed")
    (further,) = cold.requests("1,000 tokens, next turn", "seed")
    assert further.messages[:1] == first.messages
    assert len(further.messages) == 3


def looked(folder, handle):
    async def handler(reader, writer):
        body = await asked(reader)
        tokens = handle(body)
        if tokens:
            await answer(writer, tokens)
        else:
            writer.close()

    async def run():
        async with serving(handler) as port, asyncio.timeout(60):
            return await cold.look(Target(port), folder)

    return asyncio.run(run())


def test_a_kernel_that_comes_later_is_told_with_what_brought_it(tmp_path, capsys):
    kernels = tmp_path / "of" / "an engine"
    kernels.mkdir(parents=True)
    (kernels / "warm.cubin").touch()

    def compiling(body):
        if "top_p" in body:
            (kernels / "late.ptx").touch()
        (kernels / "no kernel").touch()
        return body["max_tokens"]

    assert not looked(tmp_path, compiling)
    head, *rows = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| 1 kernels when ready |")
    assert [row for row in rows if "late.ptx" in row] == [row for row in rows if "4 with top_p" in row]
    assert "no kernel" not in "".join(rows)
    assert looked(tmp_path, compiling)  # nothing comes now that was not there


def test_what_is_not_answered_is_told(tmp_path, capsys):
    assert not looked(tmp_path, lambda body: 0 if "seed" in body else body["max_tokens"])
    assert "3 with a seed" in capsys.readouterr().err
