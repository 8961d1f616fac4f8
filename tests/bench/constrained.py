"""What constrained decoding costs: `python tests/bench/constrained.py` prints the tables of docs/benchmarks.md.

Free and constrained requests run in turn on the same engine process, several rounds of each, and the best round
counts: other load on the machine can only slow a round down. All requests are greedy and produce exactly the same
number of tokens; the constrained ones fill an array that never ends.
"""

import argparse
import json
import random
import threading
import time
from pathlib import Path

import psutil
from llguidance import LLMatcher, LLTokenizer

from pensieved.chat.conversation import Conversation, Role, ToolChoice, ToolDefinition, ToolMode, text_turn
from pensieved.chat.grammar import ANY_OBJECT, Marks, answer_grammar, tool_grammar
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.chat.toolformat import GENERIC
from pensieved.engine.protocol import Sampling
from pensieved.engine.supervisor import Engine, EngineConfig
from pensieved.models.preparation import PrepareRequest, prepare
from pensieved.models.source import parse_source
from pensieved.settings.schema import STARTER_MODEL

CONCURRENT = (1, 4, 8)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "email": {"type": "string", "format": "email"},
        "kind": {"enum": ["guest", "member", "owner"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
    },
    "required": ["name", "age", "email", "kind", "tags"],
    "additionalProperties": False,
}
ENDLESS = {"type": "array", "items": PERSON, "minItems": 10**6}
TOOLS = tuple(
    ToolDefinition(name=f"tool_{number}", description="Does something.", schema=PERSON)
    for number in range(24)
)


def spent(action):
    started = time.perf_counter()
    result = action()
    return result, time.perf_counter() - started


def best(count, action):
    return min(spent(action)[1] for _ in range(count))


def tries(tokenizer_json):
    """Build time and memory of the vocabulary's trie, for the model's and for one of 150k tokens."""
    large = json.loads(tokenizer_json)
    chance = random.Random(0)
    vocabulary = large["model"]["vocab"]
    while len(vocabulary) < 150_000:
        word = "".join(chance.choices("abcdefghijklmnopqrstuvwxyzĠ", k=chance.randint(3, 12)))
        vocabulary.setdefault(word, len(vocabulary))
    process = psutil.Process()
    print("| vocabulary | build | memory |\n|---|---|---|")
    for text in (tokenizer_json, json.dumps(large, ensure_ascii=False)):
        before = process.memory_info().rss
        trie, seconds = spent(lambda text=text: LLTokenizer(text, eos_token=[2]))
        grown = (process.memory_info().rss - before) / 2**20
        print(f"| {trie.vocab_size} | {seconds:.2f} s | {grown:.0f} MiB |")


def grammars(trie):
    """Compile times on the daemon's side and the engine's, and the time for one mask."""
    print(
        "\n| grammar | daemon: check | engine: compile | mask, median | mask, 99 % |\n|---|---|---|---|---|"
    )
    wanted = {
        "JSON object": lambda: answer_grammar(ANY_OBJECT, Marks()),
        "record of 5 fields": lambda: answer_grammar(ENDLESS, Marks()),
        "24 tools, any": lambda: tool_grammar(TOOLS, GENERIC, ToolChoice(mode=ToolMode.ANY), Marks()),
    }
    for name, make in wanted.items():
        grammar, check = make(), best(5, make)
        build = best(5, lambda grammar=grammar: LLMatcher(trie, grammar, log_level=0))
        matcher, chance, times = LLMatcher(trie, grammar, log_level=0), random.Random(0), []
        for _ in range(400):
            mask, seconds = spent(matcher.compute_bitmask)
            times.append(seconds)
            allowed = [
                8 * place + bit for place, byte in enumerate(mask) for bit in range(8) if byte >> bit & 1
            ]
            matcher.consume_token(chance.choice(allowed))
            if matcher.is_stopped():
                matcher.reset()
        times.sort()
        middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
        print(
            f"| {name} | {check * 1e3:.1f} ms | {build * 1e3:.1f} ms | {middle * 1e6:.0f} µs | {late * 1e6:.0f} µs |"
        )


def rate(engine, text, grammars, tokens):
    """Output tokens a second of requests with `grammars`, from the first token of the last one to start."""
    prompts = [
        text.encode_chat(Conversation((text_turn(Role.USER, f"Invent {number + 2} people."),)))
        for number in range(len(grammars))
    ]
    generations = [
        engine.client.submit(
            prompt, max_tokens=tokens, stop_tokens=text.stop_token_ids, sampling=FORBID_STOP, grammar=grammar
        )
        for prompt, grammar in zip(prompts, grammars, strict=True)
    ]
    for generation in generations:
        while not generation.produced:
            generation.next(600)
    produced, started = sum(len(each.produced) for each in generations), time.perf_counter()
    for generation in generations:
        while (chunk := generation.next(600)) is None or chunk.finish is None:
            pass
    seconds = time.perf_counter() - started
    return (sum(len(each.produced) for each in generations) - produced) / seconds


FORBID_STOP = Sampling()


def throughput(engine, text, rounds, tokens):
    grammar = answer_grammar(ENDLESS, Marks())
    print("\n| concurrent | free | constrained | half of each |\n|---|---|---|---|")
    for count in CONCURRENT:
        kinds = {"free": [""] * count, "constrained": [grammar] * count}
        if count > 1:
            kinds["mixed"] = ["", grammar] * (count // 2)
        rates = dict.fromkeys(kinds, 0.0)
        for _ in range(rounds):
            for kind, wanted in kinds.items():
                rates[kind] = max(rates[kind], rate(engine, text, wanted, tokens))
        free, rest = rates["free"], [rates[kind] for kind in list(kinds)[1:]]
        shown = " | ".join(f"{each:.1f} tok/s ({each / free - 1:+.1%})" for each in rest)
        print(f"| {count} | {free:.1f} tok/s | {shown}{' | ' if count > 1 else ' | |'}")


def main():
    global FORBID_STOP  # noqa: PLW0603  the model's stop tokens are known late
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache-dir", type=Path, required=True, help="where the starter model is or will be")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    wanted = PrepareRequest(source=parse_source(STARTER_MODEL), cache_dir=options.cache_dir)
    model = prepare(wanted, lambda _: None, threading.Event())
    tokenizer_json = (model.path / "tokenizer.json").read_text(encoding="utf-8")
    tries(tokenizer_json)
    grammars(LLTokenizer(tokenizer_json, eos_token=[2]))
    text = ChatTokenizer.open(model.path, model.manifest.eos_token_ids)
    FORBID_STOP = Sampling(logit_bias=tuple((token, -100.0) for token in text.stop_token_ids))
    engine = Engine(EngineConfig(cache_dir=options.cache_dir), lambda *_: None)
    try:
        engine.load(model.path, max_concurrent=max(CONCURRENT))
        throughput(engine, text, options.rounds, options.tokens)
    finally:
        engine.stop(5)


if __name__ == "__main__":
    main()
