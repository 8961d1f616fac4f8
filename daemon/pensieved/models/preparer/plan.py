"""What precision a model gets: what was asked for, as it suits the device and what the source already has.

Measured: on an x86 CPU, 4-bit weights decode at half the speed of float32 at best and at a fiftieth with
16-bit scales, bfloat16 at a third. So there everything becomes float32, and what is quantized on demand has
float32 scales. Metal and CUDA take 4 bits unless the source is quantized already.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pensieved.models.manifest import Backend

_X86 = frozenset({"x86_64", "AMD64", "i686"})
_FLOATS = frozenset({"float32", "float16", "bfloat16"})


@dataclass(frozen=True)
class Precision:
    """How a source's weights are stored. `dtype` is None where nobody says; `bits` None where not quantized."""

    dtype: str | None
    quantized: bool = False
    bits: int | None = None

    def __str__(self) -> str:
        if self.quantized:
            return f"{self.bits}bit" if self.bits else "quantized"
        return self.dtype or "as published"


@dataclass(frozen=True)
class Plan:
    """What to do: cast to `dtype` (None: keep), then `dequantize`, or quantize to `bits` (None: do not)."""

    dtype: str | None = None
    bits: int | None = None
    dequantize: bool = False

    @property
    def changes_nothing(self) -> bool:
        """Whether the source's files serve as they are."""
        return self == Plan()

    def result(self, source: Precision) -> str:
        """The precision that comes out, as users read it."""
        if self.bits is not None:
            return f"{self.bits}bit"
        if self.dequantize:
            return self.dtype or "dequantized"
        return str(source) if source.quantized else self.dtype or str(source)


def choose_plan(asked: str, backend: Backend, source: Precision) -> Plan:
    """The plan for a value of `[model] quantization`."""
    slow_below_float32 = backend == "cpu" and platform.machine() in _X86
    if asked == "none":
        return Plan()
    if asked == "auto":
        if slow_below_float32:
            return Plan() if source == Precision("float32") else Plan("float32", dequantize=source.quantized)
        return Plan() if backend == "cpu" or source.quantized else Plan(bits=4)
    bits = int(asked.removesuffix("bit"))
    if source.quantized and source.bits == bits and not slow_below_float32:
        return Plan()
    return Plan("float32" if slow_below_float32 else None, bits, dequantize=source.quantized)


def gguf_dtype(asked: str, backend: Backend, stored: str | None) -> str:
    """The float type that a GGUF's tensors get (before they are quantized, if they are)."""
    if stored is not None and (asked == "none" or backend != "cpu"):
        return stored
    return "float32" if backend == "cpu" else "bfloat16"


def precision_of(config: Mapping[str, Any]) -> Precision:
    """How a config.json says that its weights are stored."""
    text = config.get("text_config") or {}
    dtype = next((d for c in (config, text) for k in ("dtype", "torch_dtype") if (d := c.get(k))), None)
    quantization = (
        config.get("quantization") or config.get("quantization_config") or text.get("quantization_config")
    )
    if quantization:
        bits = quantization.get("bits", 4 if quantization.get("quant_method") == "mxfp4" else None)
        return Precision(dtype, quantized=True, bits=bits)
    return Precision(dtype if dtype in _FLOATS else None)


def bytes_per_weight(plan: Plan, source: Precision) -> tuple[float, float]:
    """Rough bytes per weight before and after, to ask for disk space."""
    before = _bytes(source.bits or 4 if source.quantized else None, source.dtype)
    after = _bytes(plan.bits, plan.dtype or source.dtype)
    return before, after if plan.bits or plan.dequantize or not source.quantized else before


def _bytes(bits: int | None, dtype: str | None) -> float:
    if bits is not None:
        return bits / 8 * 1.15  # scales and biases
    return 4.0 if dtype == "float32" else 2.0
