"""How fast MLX really is here: a short measurement in a process of its own, as the engine would run.

The daemon's side: it starts `worker.gauge` with an engine's environment and reads one line of JSON.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec

from pensieved.engine.launch import environment
from pensieved.errors import EngineError

if TYPE_CHECKING:
    from pensieved.engine.launch import EngineConfig

_MODULE = "pensieved.engine.worker.gauge"
_TIMEOUT = 120.0  # seconds; usually three


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. Bandwidths in bytes a second, read and written bytes added up.

    Args:
        device: MLX's name of it: cpu, or gpu.
        mlx: version; `mlx_lm` likewise.
        blas: the OpenBLAS in the process, or empty.
        host_bandwidth: of one processor core's memcpy.
        device_bandwidth: of an elementwise kernel; on a CPU the same as the host's.
        weight_bytes: of the model that was decoded with, a llama of random weights.
        tokens_per_second: of one stream.
        flops: of a float32 matrix product, in operations a second.
    """

    device: str
    mlx: str
    mlx_lm: str
    blas: str
    host_bandwidth: float
    device_bandwidth: float
    weight_bytes: int
    tokens_per_second: float
    flops: float

    @property
    def decode_bandwidth(self) -> float:
        """Bytes of weights read a second: each token needs all of them once."""
        return self.weight_bytes * self.tokens_per_second


def measure(config: EngineConfig, timeout: float = _TIMEOUT) -> Figures:
    """Measure, for a few seconds and with about 1 GiB of memory.

    Raises:
        EngineError: MLX does not work here; says what it said.
    """
    command = [sys.executable, "-P", "-m", _MODULE, "--device", config.device]
    try:
        done = subprocess.run(
            command,
            env=environment(config),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return msgspec.json.decode(done.stdout, type=Figures)
    except subprocess.TimeoutExpired:
        raise EngineError(f"MLX did not finish a few tokens within {timeout:.0f} s.") from None
    except OSError as error:
        raise EngineError(f"The measurement cannot be started: {error}.") from None
    except msgspec.MsgspecError:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        reason = words[-1] if words else f"the process ended with {done.returncode}"
        raise EngineError(f"MLX cannot run here: {reason}") from None
