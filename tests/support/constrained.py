"""What tests of constrained decoding share: generations collected, answers checked."""

import json
import time
from decimal import Decimal, localcontext

import jsonschema

from pensieved.engine.protocol import Sampling


def submit(engine, prompt, grammar, *, stop=(2,), max_tokens=80, **sampling):
    return engine.client.submit(
        prompt, max_tokens=max_tokens, stop_tokens=stop, sampling=Sampling(**sampling), grammar=grammar
    )


def collect(generation, timeout=120.0):
    """All ids and why they ended."""
    deadline = time.monotonic() + timeout
    tokens = []
    while time.monotonic() < deadline:
        chunk = generation.next(1.0)
        if chunk is not None:
            tokens += chunk.tokens
            if chunk.finish is not None:
                return tokens, chunk.finish
    raise TimeoutError(f"only {len(tokens)} tokens came")


def validate(text, schema):
    """Raise if the JSON `text` is not valid against `schema`; numbers are compared as they are written."""
    exact = json.loads(json.dumps(schema), parse_float=_number)
    with localcontext(prec=1000):  # enough for the remainder of any number that fits an answer
        jsonschema.Draft202012Validator(exact).validate(json.loads(text, parse_float=_number))


def _number(written):
    """0.3 is a multiple of 0.1 in decimal only, but 1e999999 has too many digits to be divided."""
    return float(written) if "e" in written.lower() else Decimal(written)
