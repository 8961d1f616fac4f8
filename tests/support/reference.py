"""mlx-lm's own answers, to compare the engine with: each prompt alone, in a process of its own.

`greedy(folder, prompts, max_tokens, env)` gives, for each prompt, the ids that mlx-lm's `generate_step` chooses.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def greedy(folder, prompts, max_tokens, env):
    """Ids of the greedy answers of the model in `folder`; `env` should be that of the engine."""
    done = subprocess.run(
        [sys.executable, "-P", __file__, str(folder), str(max_tokens)],
        input=json.dumps([list(prompt) for prompt in prompts]),
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main():
    import mlx.core as mx  # noqa: PLC0415  in the child only
    from mlx_lm.generate import generate_step  # noqa: PLC0415
    from mlx_lm.utils import load_model  # noqa: PLC0415

    model, _ = load_model(Path(sys.argv[1]))
    answers = []
    for prompt in json.load(sys.stdin):
        steps = generate_step(mx.array(prompt), model, max_tokens=int(sys.argv[2]))
        answers.append([int(token) for token, _ in steps])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
