"""Who is measured, and with which command and environment each one starts.

All get the same prepared folder, and on a machine that needs it the same OpenBLAS with the same number of threads,
preloaded by the daemon's own code for it. `stock` is mlx_lm.server as it comes from its wheel. Peers are found on the
PATH or beside the interpreter; they keep their own defaults except for what makes the work comparable: that many
requests may run at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


_HERE = Path(__file__).parents[1]  # where the ceiling finds this package
_SHOWN_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is the same for all.

    Args:
        folder: the prepared model.
        url: what the daemon is told, so that it serves that folder.
        quantization: likewise.
        cache_dir: of the daemon.
        scratch: folder of temporary folders, one for each contestant, where MLX keeps the kernels that it compiles: nobody
            starts with another's.
        config: an empty TOML, so that the user's own counts for nothing.
        blas: variables that put OpenBLAS in front; empty where none is needed.
        threads: of the BLAS.
        slots: requests that may decode together.
        context: tokens of the model's context.
        weight_bytes: size of the weights.
        gguf: the same model for llama-server, if there is one.
    """

    folder: Path
    url: str
    quantization: str
    cache_dir: Path
    scratch: Path
    config: Path
    blas: Mapping[str, str]
    threads: int
    slots: int
    context: int
    weight_bytes: int
    gguf: Path | None

    def environment(self, name: str, *, blas: bool) -> dict[str, str]:
        """Of a child that is called so: nobody asks a Hub, nobody reports home."""
        temporary = self.scratch / name
        temporary.mkdir(parents=True, exist_ok=True)
        quiet = {
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "OPENBLAS_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temporary.resolve()),
            "TOKENIZERS_PARALLELISM": "false",
        }
        return {**os.environ, **quiet, **(self.blas if blas else {})}

    def kernels(self, name: str) -> Path:
        """Folder of what it compiled; the daemon keeps its own in its cache."""
        return self.cache_dir / "kernels" if name == "daemon" else self.scratch / name

    def has_kernels(self, name: str) -> bool:
        """Whether it finds kernels that it compiled earlier."""
        return any(path.is_file() for path in self.kernels(name).rglob("*"))


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A server, or the ceiling.

    Args:
        name: in options, files and tables.
        command: from the setup and a free port.
        chooses_port: it is told port 0 and prints its URL.
        blas: whether OpenBLAS is preloaded; the daemon does that itself, for its engine.
        model: what it calls the model it serves.
        dialects: that it is measured in.
        ready: path that answers 200 when nothing is left to compile; empty: it says so nowhere.
        levels: the only concurrencies it is measured at; empty: all.
        program: the executable, for peers.
        packages: distributions whose versions matter, in that program's environment.
    """

    name: str
    command: Callable[[Setup, int], list[str]]
    chooses_port: bool = False
    blas: bool = True
    model: str = "default_model"
    dialects: tuple[str, ...] = ("openai",)
    ready: str = ""
    levels: tuple[int, ...] = ()
    program: str = ""
    packages: tuple[str, ...] = field(default=())

    def shown(self, setup: Setup) -> str:
        """The command as it stands in the documents, without this machine's paths."""
        names = {
            sys.executable: "python",
            str(setup.folder): "MODEL",
            str(setup.cache_dir): "CACHE",
            str(setup.config): "EMPTY.toml",
            str(setup.gguf): "MODEL.gguf",
            str(_SHOWN_PORT): "PORT",
        }
        words = [names.get(word, word) for word in self.command(setup, _SHOWN_PORT)]
        words = [
            "MODEL" if word == setup.url and os.sep in word and Path(word).exists() else word
            for word in words
        ]
        if self.program:
            words[0] = self.program
        return " ".join(word for word in words if word)


def _daemon(setup: Setup, _port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "pensieved", "run", "--config", str(setup.config), "--port", "0"),
        *("--model-url", setup.url, "--quantization", setup.quantization),
        *("--cache-dir", str(setup.cache_dir), "--max-concurrent", str(setup.slots)),
    ]


def _ceiling(setup: Setup, _port: int) -> list[str]:
    return [sys.executable, "-m", "bench.ceiling", str(setup.folder)]


def _mlx_lm(setup: Setup, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlx_lm", "server", "--model", str(setup.folder)),
        *("--port", str(port), "--decode-concurrency", str(setup.slots)),
    ]


def _vllm_mlx(setup: Setup, port: int) -> list[str]:
    return [
        *(find("vllm-mlx"), "serve", str(setup.folder), "--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", "default", "--continuous-batching", "--max-num-seqs", str(setup.slots)),
    ]


def _rapid_mlx(setup: Setup, port: int) -> list[str]:
    return [find("rapid-mlx"), "serve", str(setup.folder), "--host", "127.0.0.1", "--port", str(port)]


def _llama_server(setup: Setup, port: int) -> list[str]:
    return [
        *(find("llama-server"), "-m", str(setup.gguf), "--host", "127.0.0.1", "--port", str(port), "--jinja"),
        *("-np", str(setup.slots), "-c", str(setup.slots * setup.context), "-t", str(setup.threads)),
    ]


ALL = (
    Contestant(name="ceiling", command=_ceiling),
    Contestant(
        name="daemon",
        command=_daemon,
        chooses_port=True,
        blas=False,
        dialects=("openai", "anthropic"),
        ready="/ready",
    ),
    Contestant(name="mlx_lm.server", command=_mlx_lm),
    Contestant(name="stock", command=_mlx_lm, blas=False, levels=(1, 8)),
    Contestant(
        name="vllm-mlx",
        command=_vllm_mlx,
        model="default",
        program="vllm-mlx",
        packages=("vllm-mlx", "mlx", "mlx-lm"),
    ),
    Contestant(
        name="rapid-mlx",
        command=_rapid_mlx,
        model="default",
        program="rapid-mlx",
        packages=("rapid-mlx", "mlx", "mlx-lm"),
    ),
    Contestant(name="llama-server", command=_llama_server, program="llama-server"),
)


def entered(setup: Setup, only: tuple[str, ...]) -> tuple[list[Contestant], dict[str, str]]:
    """Who takes part, and why others that were asked for do not."""
    asked = [each for each in ALL if not only or each.name in only]
    absent = {each.name: why for each in asked if (why := _hindrance(each, setup))}
    return [each for each in asked if each.name not in absent], absent


def _hindrance(contestant: Contestant, setup: Setup) -> str:
    if contestant.name == "stock" and not setup.blas:
        return "mlx_lm.server has no other BLAS here"
    if contestant.program and not find(contestant.program):
        return "not installed"
    if contestant.name == "llama-server" and setup.gguf is None:
        return "no GGUF of this model; --gguf names one"
    return ""


def find(program: str) -> str:
    """Where it is; empty where it is not."""
    return shutil.which(program) or shutil.which(program, path=sysconfig.get_path("scripts")) or ""


def version_of(contestant: Contestant) -> str:
    """Of a peer: its own distributions as its own interpreter sees them, or what it says of itself."""
    path = find(contestant.program)
    with Path(path).open("rb") as file:
        first = file.readline().decode(errors="replace").strip()
    if contestant.packages and first.startswith("#!"):
        code = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {contestant.packages!r}))"
        command = [*first[2:].split(), "-c", code]
    else:
        command = [path, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return next(iter((done.stdout or done.stderr).strip().splitlines()), "unknown")
