"""What drafting from a request's own text gains and costs: `python tests/bench/speculation.py` prints the ratios.

Each piece of work runs with and without drafts in turn, in the same process on the same weights, several rounds of each;
the median of the rounds' ratios is what counts, since other load on the machine slows both. All requests are greedy, and
that the texts are equal is checked. The rate is that of tokens after the first: what prompts take is the same either way.
`cpu_ratio` compares tokens for each second of the process' CPU time, which depends less on other load.
`alone` is the rate of each stream by itself, the slowest first, so that it shows if one pays for another.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path

import mlx.core as mx
from mlx_lm.utils import load_model

from pensieved.chat.conversation import Conversation, Role, text_turn
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.engine import blas
from pensieved.engine.protocol import Submit
from pensieved.engine.worker.batch import Batch
from pensieved.models.preparation import PrepareRequest, prepare
from pensieved.models.source import parse_source
from pensieved.settings.schema import STARTER_MODEL

HARBOUR = """\
The harbour of Kellin was built in 1874, when the railway reached the coast. Before that, ships anchored in the open bay and \
goods were carried ashore in small boats. The first pier was made of wood and was lost in the storm of 1881. The second pier, \
made of granite from the quarry at Morrow, still stands today. It is 412 metres long and carries a lighthouse at its end, which \
was lit by gas until 1926 and by electricity since then.
In its best years, around 1910, the harbour handled 340 ships a month. Most of them carried slate and wool to Liverpool and came \
back with coal, tea and machines. Three shipping companies had offices on the quay, and the town grew from 900 to 7,400 \
inhabitants within one generation. The grammar school, the hospital and the public library were all paid for by the harbour \
company. The decline began after the first war. Roofs were covered with tiles instead of slate, and the railway took over most \
of the wool. In 1962 there were 48 fishing boats, in 1985 only 11."""
ORCHARD = """\
Most of the orchards in the Senna valley are older than the road that leads to them. The farmers of the valley planted apples \
on the northern slope, where frost comes late, and pears along the stream. In 1903 a teacher counted 61 kinds of apples, of \
which 22 were known nowhere else. Cider was pressed in every house, and what was left of the fruit went to the pigs.
After the road was built in 1951, lorries took the fruit to the city within a day. Only five kinds of apples paid for their \
transport, and the other trees were cut down or forgotten. Since 2004 an association looks for the old kinds, grafts them on young \
stocks and gives them to anybody who promises to keep them for ten years. So far 38 of the 61 kinds have been found again, most \
of them in gardens, one beside the railway station, and one on the roof of the school."""
INVENTORY = """\
class Inventory:
    def __init__(self, name):
        self.name = name
        self.items = {}

    def add_item(self, item, quantity):
        if quantity <= 0:
            raise ValueError("quantity must be positive")
        if item in self.items:
            self.items[item] += quantity
        else:
            self.items[item] = quantity

    def remove_item(self, item, quantity):
        if item not in self.items:
            raise KeyError(item)
        if self.items[item] < quantity:
            raise ValueError("not enough items")
        self.items[item] -= quantity

    def count(self, item):
        return self.items.get(item, 0)

    def total(self):
        return sum(self.items.values())
"""
PARSER = """\
def read_rows(path, separator=","):
    rows = []
    with open(path) as file:
        for number, line in enumerate(file, start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            fields = line.split(separator)
            if len(fields) < 3:
                raise ValueError(f"line {number}: expected 3 fields")
            name, amount, price = fields[:3]
            rows.append((name, int(amount), float(price)))
    return rows


def total(rows):
    result = 0.0
    for name, amount, price in rows:
        result += amount * price
    return result
"""
CORRECT = "Repeat the following text, correcting any spelling mistakes. Write nothing else.\n\n"
SUMMARISE = "Summarise the following text in a few sentences.\n\n"
DOCUMENT = "Add a docstring to each function of this Python code. Give the whole code.\n\n```python\n"
SKY = "Why is the sky blue? Explain it to a child."
FOX = "Write a short story about a fox who learns to sail."
WORK = {
    "proofread": (CORRECT + HARBOUR, CORRECT + ORCHARD),
    "edit code": (f"{DOCUMENT}{INVENTORY}```", f"{DOCUMENT}{PARSER}```"),
    "summarise": (SUMMARISE + HARBOUR, SUMMARISE + ORCHARD),
    "chat": (SKY, FOX),
    "chat beside proofread": (FOX, CORRECT + HARBOUR),
}


def answer(batch, prompts, tokens, stop):
    """The tokens of each prompt's answer, the rate of each stream, that of all, and that for each second of CPU time."""
    begun, ended, answers, worked = {}, {}, [[] for _ in prompts], time.process_time()
    for number, prompt in enumerate(prompts):
        batch.insert(Submit(number, tuple(prompt), tokens, stop))
    while len(batch):
        outputs = batch.step()
        now = time.perf_counter()
        for output in outputs:
            if not begun:
                worked = time.process_time()
            begun.setdefault(output.request, now)
            ended[output.request] = now
            answers[output.request] += output.tokens
    alone = [(len(ids) - 1) / (ended[number] - begun[number]) for number, ids in enumerate(answers)]
    produced = sum(len(ids) - 1 for ids in answers)
    together = produced / (max(ended.values()) - min(begun.values()))
    return answers, alone, together, produced / (time.process_time() - worked)


def compare(sides, name, prompts, options, stop):
    """One piece of work, printed as a line of JSON."""
    rounds = []
    before = sides["on"].speculation
    for _ in range(options.rounds):
        found = {side: answer(batch, prompts, options.tokens, stop) for side, batch in sides.items()}
        rounds.append((found["off"], found["on"]))
    after = sides["on"].speculation
    ratios, cpu = (sorted(on[kind] / off[kind] for off, on in rounds) for kind in (2, 3))
    streams = [statistics.median(on[1][n] / off[1][n] for off, on in rounds) for n in range(len(prompts))]
    drafted, right = after.drafted - before.drafted, after.accepted - before.accepted
    print(
        json.dumps(
            {
                "work": name,
                "streams": len(prompts),
                "off": round(statistics.median(off[2] for off, _ in rounds), 1),
                "on": round(statistics.median(on[2] for _, on in rounds), 1),
                "ratio": round(statistics.median(ratios), 2),
                "ratios": [round(ratio, 2) for ratio in ratios],
                "cpu_ratio": round(statistics.median(cpu), 2),
                "alone": [round(each, 2) for each in sorted(streams)],
                "drafted": drafted,
                "right": round(right / drafted, 2) if drafted else None,
                "same_text": all(off[0] == on[0] for off, on in rounds),
            }
        ),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=STARTER_MODEL)
    parser.add_argument("--cache-dir", type=Path, default=Path("build", "bench", "cache"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=160, help="of an answer, at most")
    parser.add_argument("--work", nargs="*", choices=WORK, default=list(WORK))
    options = parser.parse_args()
    options.cache_dir.mkdir(parents=True, exist_ok=True)
    preload = blas.environment(options.cache_dir)
    if preload and "LD_PRELOAD" not in os.environ:  # the engine process has it too
        os.execve(sys.executable, [sys.executable, *sys.argv], {**preload, **os.environ})
    wanted = PrepareRequest(source=parse_source(options.model), cache_dir=options.cache_dir)
    prepared = prepare(wanted, lambda _: None, threading.Event())
    tokenizer = ChatTokenizer.open(prepared.path, prepared.manifest.eos_token_ids)
    model, _ = load_model(prepared.path)
    sides = {
        name: Batch(model, mx.default_device(), max_concurrent=4, prefill_chunk=512) for name in ("off", "on")
    }
    sides["on"].speculate()
    stop = tuple(tokenizer.stop_token_ids)
    ids = {
        text: tokenizer.encode_chat(Conversation((text_turn(Role.USER, text),)))
        for texts in WORK.values()
        for text in texts
    }
    for batch in sides.values():
        answer(batch, [ids[SKY]], 8, stop)
    for name in options.work:
        texts = WORK[name]
        for prompts in [texts] if "beside" in name else [texts[:1], texts]:
            compare(sides, name, [ids[text] for text in prompts], options, stop)


if __name__ == "__main__":
    main()
