"""An older Anthropic SDK, which sends its key as x-api-key and temperature, top_p and top_k by name.

It runs in a process of its own, every warning an error. `PENSIEVED_TEST_OLD_SDK` names a folder where it is installed
already; else pip puts it into pytest's cache, once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.front import MODEL
from support.modelled import modelled_front, prompt_of

pytestmark = pytest.mark.slow

VERSION = "0.49.0"
CALL = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
ASKING = """
import json, sys
import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="an-old-key", max_retries=0)
ask = {"model": sys.argv[2], "max_tokens": 200, "messages": [{"role": "user", "content": "How is it?"}]}
sampled = {"temperature": 0.25, "top_p": 0.5, "top_k": 7, "stop_sequences": ["never"], "metadata": {"user_id": "x"}}
tools = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
called = client.messages.create(**ask, **sampled, system="Be kind.", tools=tools, tool_choice={"type": "auto"})
call = called.content[-1]
told = [
    {"role": "assistant", "content": called.content},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
]
with client.messages.stream(**ask | {"messages": ask["messages"] + told}, tools=tools) as stream:
    pieces = list(stream.text_stream)
    final = stream.get_final_message()
try:
    client.messages.create(**ask | {"model": "unknown"})
except anthropic.NotFoundError as error:
    refused = error.body["error"]["type"]
print(json.dumps({
    "version": anthropic.__version__,
    "call": [call.type, call.name, call.input, called.stop_reason],
    "answer": ["".join(pieces), final.content[0].text, final.stop_reason],
    "counted": client.messages.count_tokens(model=ask["model"], messages=ask["messages"]).input_tokens,
    "plain": client.messages.create(**ask).usage.input_tokens,
    "models": [model.id for model in client.models.list()],
    "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def folder(request):
    named = os.environ.get("PENSIEVED_TEST_OLD_SDK")
    if named:
        return Path(named)
    folder = Path(request.config.cache.mkdir("anthropic-old")) / VERSION
    if not (folder / "anthropic").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, f"anthropic=={VERSION}"]
        fetched = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=240)
        if fetched.returncode != 0:
            pytest.skip(f"pip cannot fetch anthropic {VERSION}: {fetched.stderr.strip()[-200:]}")
    return folder


def test_it_works_unchanged(folder):
    with modelled_front(CALL, "It is sunny.", api_keys=("an-old-key",)) as front:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", ASKING, front.url, MODEL],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert (done.returncode, done.stderr) == (0, "")
        seen = json.loads(done.stdout)
        sampling = front.engine.submitted[0].sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
        assert "<tool_response>\nsunny\n</tool_response>" in prompt_of(front, 1)
    assert seen["version"] == VERSION
    assert seen["call"] == ["tool_use", "weather", {"city": "Rome"}, "tool_use"]
    assert seen["answer"] == ["It is sunny.", "It is sunny.", "end_turn"]
    assert seen["counted"] == seen["plain"]
    assert seen["models"] == [MODEL]
    assert seen["refused"] == "not_found_error"
