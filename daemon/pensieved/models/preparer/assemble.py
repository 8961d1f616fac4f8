"""From an acquired source to a complete folder in staging: linked or converted, tried, and written down."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import shutil
from typing import TYPE_CHECKING, Any, Literal

from pensieved import __version__
from pensieved.models.gguf.convert import convert_gguf
from pensieved.models.gguf.reader import GgufModel
from pensieved.models.gguf.writer import DTYPES
from pensieved.models.hashing import sha256_of
from pensieved.models.manifest import FILE_NAME, Manifest, ModelFile, write_manifest
from pensieved.models.preparer import mlx_convert, tokenizing
from pensieved.models.preparer.disk import require_space
from pensieved.models.preparer.plan import (
    Plan,
    Precision,
    bytes_per_weight,
    choose_plan,
    gguf_dtype,
    precision_of,
)
from pensieved.models.preparer.select import CONFIG, INDEX
from pensieved.models.progress import PrepareStage

if TYPE_CHECKING:
    from pathlib import Path

    from pensieved.models.preparer.origin import Origin, Resolution
    from pensieved.models.preparer.report import Reporter
    from pensieved.models.wire import Job


class Assembler:
    """Builds one prepared folder below `scratch`."""

    def __init__(self, job: Job, report: Reporter, origin: Origin, scratch: Path) -> None:
        self._job = job
        self._report = report
        self._origin = origin
        self._scratch = scratch
        self._name = job.source.name
        self._copied: set[str] = set()
        if job.backend == "cpu":
            mlx_convert.use_cpu()

    def assemble(self, resolution: Resolution) -> Path:
        """Acquire, convert, try and describe; returns the folder, durable on disk. Raises PensievedError."""
        folder = self._scratch / "prepared"
        folder.mkdir()
        require_space(self._origin.room(resolution))
        if resolution.format == "gguf":
            effective = self._from_gguf(resolution, folder)
        else:
            effective = self._from_safetensors(resolution, folder)
        tokenizing.complete_tokenizer(folder, self._name, trust_remote_code=self._job.trust_remote_code)
        self._describe(folder, resolution, effective)
        return folder

    def _from_gguf(self, resolution: Resolution, folder: Path) -> str:
        source = self._view(self._origin.acquire(resolution), resolution)
        model = GgufModel(sorted(source.rglob("*.gguf")), self._name)  # parts sort by their number
        dtype = gguf_dtype(self._job.quantization, self._job.backend, model.float_type)
        bits = choose_plan(self._job.quantization, self._job.backend, Precision(dtype)).bits
        plan = Plan(bits=bits)
        size = model.parameters * DTYPES[dtype][1]
        require_space({self._scratch: size * 2 if bits else size})
        target = self._scratch / "float" if bits else folder
        target.mkdir(exist_ok=True)
        self._report.begin(PrepareStage.CONVERTING, f"{model.architecture} GGUF to {dtype}", size)
        convert_gguf(model, target, dtype, self._report.advance)
        if bits:
            self._convert(target, folder, plan, size // 3)
            self._copy_description(target, folder)
            self._copied.clear()  # they were built here, not published
            shutil.rmtree(target)
        return plan.result(Precision(dtype))

    def _from_safetensors(self, resolution: Resolution, folder: Path) -> str:
        weights = [file for file in resolution.files if file.path.endswith(".safetensors")]
        described = [file.path for file in resolution.files if file not in weights]
        # Small, and enough to refuse what cannot be served.
        config = mlx_convert.read_config(self._origin.acquire(resolution, described), self._name)
        mlx_convert.require_supported(config, self._name, trust_remote_code=self._job.trust_remote_code)
        precision = precision_of(config)
        plan = choose_plan(self._job.quantization, self._job.backend, precision)
        before, after = bytes_per_weight(plan, precision)
        output = 0 if plan.changes_nothing else int(sum(file.size for file in weights) / before * after)
        require_space(_sum(self._origin.room(resolution), {self._scratch: output}))
        source = self._view(self._origin.acquire(resolution), resolution)
        if plan.changes_nothing:
            for path in sorted(source.iterdir()):
                path.rename(folder / path.name)
        else:
            self._convert(source, folder, plan, output)
            self._copy_description(source, folder)
        return plan.result(precision)

    def _view(self, source: Path, resolution: Resolution) -> Path:
        """A folder with the model's files and no others, as links where they stay in place.

        What lies beside them was not verified, and mlx-lm loads every file that is named like weights.
        """
        if not self._origin.linkable:
            return source
        view = self._scratch / "source"
        for file in resolution.files:
            link = view / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((source / file.path).resolve())
        return view

    def _convert(self, source: Path, folder: Path, plan: Plan, expected: int) -> None:
        self._report.begin(PrepareStage.CONVERTING, plan.result(Precision(None)), expected)
        with self._report.polling(lambda: _size_of(folder)):
            mlx_convert.convert(
                source, folder, plan, self._name, trust_remote_code=self._job.trust_remote_code
            )

    def _copy_description(self, source: Path, folder: Path) -> None:
        """Everything but the weights and what the conversion wrote: tokenizer, template, generation defaults."""
        for path in sorted(source.iterdir()):
            if path.suffix != ".safetensors" and path.name not in {CONFIG, INDEX}:
                shutil.copyfile(path, folder / path.name)
                self._copied.add(path.name)

    def _describe(self, folder: Path, resolution: Resolution, effective: str) -> Manifest:
        job = self._job
        config = mlx_convert.read_config(folder, self._name)
        facts, eos, trial = tokenizing.tokenizer_facts(folder, config, self._name)
        self._report.begin(PrepareStage.CONVERTING, "smoke test")
        parameters = mlx_convert.smoke_test(
            folder, trial, self._name, trust_remote_code=job.trust_remote_code
        )
        files = self._files(folder)
        architectures = config.get("architectures") or [""]
        manifest = Manifest(
            name=self._name,
            source=job.source.canonical,
            revision=getattr(job.source, "revision", ""),
            commit=resolution.commit,
            format=resolution.format,
            quantization=job.quantization,
            effective_quantization=effective,
            backend=job.backend,
            model_type=str(config["model_type"]),
            architecture=str(architectures[0] if isinstance(architectures, list) else architectures),
            context_length=tokenizing.context_length(folder, config),
            eos_token_ids=eos,
            parameters=parameters,
            weight_bytes=sum(file.size for file in files if file.path.endswith(".safetensors")),
            trust_remote_code=_runs_code(config),
            tokenizer=facts,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            versions=_versions(),
            files=files,
            sources=resolution.files,
        )
        return write_manifest(folder, manifest)

    def _files(self, folder: Path) -> tuple[ModelFile, ...]:
        """Hash every file, and force it to disk: what is published must survive a power cut."""
        paths = [path for path in sorted(folder.iterdir()) if path.name != FILE_NAME and path.is_file()]
        self._report.begin(
            PrepareStage.CONVERTING, "writing the manifest", sum(p.stat().st_size for p in paths)
        )
        return tuple(self._described(path) for path in paths)

    def _described(self, path: Path) -> ModelFile:
        origin = self._origin_of(path)
        if origin != "linked":
            with path.open("rb") as file:
                os.fsync(file.fileno())
        status = path.stat()
        return ModelFile(
            path=path.name,
            size=status.st_size,
            sha256=sha256_of(path, self._report.advance),
            mtime_ns=status.st_mtime_ns,
            origin=origin,
        )

    def _origin_of(self, path: Path) -> Literal["linked", "copied", "built"]:
        if path.is_symlink():
            return "linked"
        return "copied" if path.name in self._copied and self._origin.linkable else "built"


def _runs_code(config: dict[str, Any]) -> bool:
    return config.get("model_file") is not None


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("mlx", "mlx-lm", "transformers")}
    return {"pensieved": __version__, **packages}


def _sum(first: dict[Path, int], second: dict[Path, int]) -> dict[Path, int]:
    return {path: first.get(path, 0) + second.get(path, 0) for path in first.keys() | second.keys()}


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
