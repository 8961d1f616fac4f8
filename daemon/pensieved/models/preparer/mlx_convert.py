"""Casting and quantizing with mlx-lm's own machinery, and what it says about models it cannot read."""

from __future__ import annotations

import importlib.metadata
import json
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_map_with_path
from mlx_lm.utils import (
    _get_classes,
    dequantize_model,
    get_total_parameters,
    load_config,
    load_model,
    quantize_model,
    save_config,
    save_model,
)

from pensieved.errors import IntegrityError, UnsupportedModelError

if TYPE_CHECKING:
    from pathlib import Path

    from pensieved.models.preparer.plan import Plan

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def use_cpu() -> None:
    """Compute on the CPU, as the engine will."""
    mx.set_default_device(mx.cpu)


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """config.json, with the stop tokens of generation_config.json. Raises UnsupportedModelError."""
    try:
        config = load_config(folder)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnsupportedModelError(f"The config.json of {name} cannot be read: {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UnsupportedModelError(f"The config.json of {name} names no model_type.")
    return config


def require_supported(config: dict[str, Any], name: str, *, trust_remote_code: bool) -> None:
    """Check, before gigabytes are fetched, that mlx-lm has this architecture. Raises UnsupportedModelError."""
    if config.get("model_file") is not None:
        if not trust_remote_code:
            raise UnsupportedModelError(
                f"{name} needs Python code of its own ({config['model_file']}) to run.",
                hint="If you trust its author, set [model] trust_remote_code = true.",
            )
        return
    try:
        _get_classes(config)
    except ValueError as error:
        version = importlib.metadata.version("mlx-lm")
        raise UnsupportedModelError(
            f"{name} is of architecture {config['model_type']}, which mlx-lm {version} does not know.",
            hint="A newer mlx-lm may: pip install -U mlx-lm. Or choose another model.",
        ) from error


def convert(source: Path, target: Path, plan: Plan, name: str, *, trust_remote_code: bool) -> None:
    """Write weights and config.json of the model in `source` into `target`, as planned.

    Raises:
        UnsupportedModelError: mlx-lm cannot load or convert it.
    """
    try:
        model, config = load_model(source, lazy=True, trust_remote_code=trust_remote_code)
        if plan.dequantize:
            model = dequantize_model(model)
            config.pop("quantization", None)
            config.pop("quantization_config", None)
        if plan.dtype is not None:
            _cast(model, plan.dtype)
            config["torch_dtype"] = plan.dtype
            config.pop("dtype", None)
        if plan.bits is not None:
            model, config = quantize_model(model, config, None, plan.bits)
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"mlx-lm {importlib.metadata.version('mlx-lm')} cannot convert {name}: {_first_line(error)}",
            hint="Try quantization = 'none', or a version of the model made for MLX.",
        ) from error
    save_model(target, model, donate_model=True)
    save_config(
        config, target / "config.json", keep_vision_config="vision_tower" in getattr(model, "model", {})
    )


def _cast(model: Any, dtype: str) -> None:
    wanted = getattr(model, "cast_predicate", lambda _: True)

    def cast(path: str, array: mx.array) -> mx.array:
        return (
            array.astype(_DTYPES[dtype])
            if wanted(path) and mx.issubdtype(array.dtype, mx.floating)
            else array
        )

    model.update(tree_map_with_path(cast, model.parameters()))


def smoke_test(folder: Path, tokens: list[int], name: str, *, trust_remote_code: bool) -> int:
    """Load the folder as the engine will and compute one step; returns the number of weights.

    Raises:
        UnsupportedModelError: it does not load.
        IntegrityError: it computes no numbers.
    """
    try:
        model, _ = load_model(folder, trust_remote_code=trust_remote_code)
        logits = model(mx.array([tokens]))[0, -1].astype(mx.float32)
        finite = bool(mx.isfinite(logits).all().item())
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"mlx-lm {importlib.metadata.version('mlx-lm')} cannot run {name}: {_first_line(error)}",
            hint="Try another quantization or another version of the model.",
        ) from error
    if not finite:
        raise IntegrityError(
            f"{name} computes no finite numbers: its weights are broken, though they are as published.",
            hint="Try another quantization or another version of the model.",
        )
    return int(get_total_parameters(model))  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
    return line if line.endswith(".") else f"{line}."
