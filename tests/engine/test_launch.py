"""The environment that an engine starts with."""

import subprocess
import sys
from pathlib import Path

import pytest

from pensieved.engine import blas
from pensieved.engine.launch import EngineConfig, environment

needs_glibc = pytest.mark.skipif(not blas.wanted(), reason="for a CPU that is x86, and Linux")

MAPPINGS = """
import re, mlx.core as mx
mx.set_default_device(mx.cpu)
mx.set_cache_limit(0)
def pages():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
mx.eval(mx.zeros((4, 1024, 1024)))  # by itself, the C library now takes arrays up to this one from its heap
kept, between, before = [], [], pages()
for _ in range(200):
    between.append(mx.zeros((80, 1024)))  # 320 KiB
    kept.append(mx.zeros((1024,)))
    mx.eval(between, kept)
full = pages()
del between
print((pages() - before) / (full - before))
"""


@needs_glibc
def test_what_lay_between_arrays_that_stay_is_given_back(tmp_path):
    given = environment(EngineConfig(cache_dir=tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", MAPPINGS], env=given, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.5


def test_what_the_user_says_of_it_is_kept(tmp_path, monkeypatch):
    theirs = {"GLIBC_TUNABLES": "glibc.malloc.check=0", "MLX_MAX_OPS_PER_BUFFER": "7"}
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    given = environment(EngineConfig(cache_dir=tmp_path))
    assert {name: given[name] for name in theirs} == theirs
    assert Path(given["TMPDIR"]).is_dir()
