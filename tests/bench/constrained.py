"""What constrained decoding costs: `python tests/bench/constrained.py` prints the tables of docs/benchmarks.md.

Free and constrained requests run in turn on the same engine process, several rounds of each, and the best round
counts: other load on the machine can only slow a round down. The engine's CPU time for each token is shown beside the
rate, since it hardly depends on other load at all. All requests are greedy and produce exactly the same number of
tokens; the constrained ones fill an array that never ends.
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


def measure(engine, text, wanted, tokens):
    """Tokens a second, and the engine's CPU milliseconds a token, from the last request's first token on."""
    generations = [
        engine.client.submit(
            text.encode_chat(Conversation((text_turn(Role.USER, f"Invent {number + 2} people."),))),
            max_tokens=tokens,
            stop_tokens=text.stop_token_ids if grammar else (),  # the grammar does not let them come
            sampling=Sampling(),
            grammar=grammar,
        )
        for number, grammar in enumerate(wanted)
    ]
    for generation in generations:
        while not generation.produced:
            generation.next(600)
    process = psutil.Process(engine.stats.pid)
    produced, started, worked = count(generations), time.perf_counter(), cpu(process)
    for generation in generations:
        while (chunk := generation.next(600)) is None or chunk.finish is None:
            pass
    made = count(generations) - produced
    return made / (time.perf_counter() - started), (cpu(process) - worked) * 1e3 / made


def count(generations):
    return sum(len(each.produced) for each in generations)


def cpu(process):
    times = process.cpu_times()
    return times.user + times.system


def throughput(engine, text, rounds, tokens):
    grammar = answer_grammar(ENDLESS, Marks())
    print("\n| concurrent | requests | tok/s | | engine CPU per token | |\n|---|---|---|---|---|---|")
    for concurrent in CONCURRENT:
        kinds = {"free": [""] * concurrent, "constrained": [grammar] * concurrent}
        if concurrent > 1:
            kinds["half of each"] = ["", grammar] * (concurrent // 2)
        results = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, wanted in kinds.items():
                results[kind].append(measure(engine, text, wanted, tokens))
        free = fastest(results["free"])
        for kind in kinds:
            rate, work = fastest(results[kind])
            change = f"{rate / free[0] - 1:+.1%} | {work:.1f} ms | {work / free[1] - 1:+.1%}"
            print(f"| {concurrent} | {kind} | {rate:.1f} | {change} |")


def fastest(results):
    """The best rate and the least work of several rounds."""
    return max(rate for rate, _ in results), min(work for _, work in results)


def main():
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
    engine = Engine(EngineConfig(cache_dir=options.cache_dir), lambda *_: None)
    try:
        engine.load(model.path, max_concurrent=max(CONCURRENT))
        throughput(engine, text, options.rounds, options.tokens)
    finally:
        engine.stop(5)


if __name__ == "__main__":
    main()
