"""A model's own logits, to recompute log-probabilities from: whole sequences at once, in a process of its own.

`logits(folder, sequences, env)` gives, for each sequence of ids, an array (length, vocabulary): row i holds the
logits of what follows id i. `env` should be that of the engine.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def logits(folder, sequences, env):
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "logits.npz"
        subprocess.run(
            [sys.executable, "-P", __file__, str(folder), str(target)],
            input=json.dumps([list(ids) for ids in sequences]),
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=True,
        )
        with np.load(target) as stored:
            return [stored[str(index)] for index in range(len(sequences))]


def log_softmax(rows):
    """In float64, as exactly as it gets."""
    rows = rows.astype(np.float64)
    top = rows.max(-1, keepdims=True)
    return rows - top - np.log(np.exp(rows - top).sum(-1, keepdims=True))


def main():
    import mlx.core as mx  # noqa: PLC0415  in the child only
    from mlx_lm.utils import load_model  # noqa: PLC0415

    model, _ = load_model(Path(sys.argv[1]))
    found = {}
    for index, ids in enumerate(json.load(sys.stdin)):
        found[str(index)] = np.array(model(mx.array([ids])).astype(mx.float32)[0])
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
