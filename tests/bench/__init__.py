"""`make bench`: what serving costs, against mlx-lm's own generator with no server around it, and against peers.

A run (`python -m bench`) starts one contestant at a time on the same prepared model with the same BLAS and the same
number of threads, gives each the same prompts, and writes one JSON of measurements; rounds go through the contestants
forwards, then backwards, so that a machine that slowly gets warmer or busier favours nobody. `python -m bench.report`
makes docs/benchmarks.md from all such JSONs, so that runs on several machines stand side by side. A comparison is only
ever made within one run.

`constrained.py` and `step.py` are measurements of their own, run as scripts.
"""
