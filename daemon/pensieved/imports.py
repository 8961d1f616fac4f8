"""How the processes import what is large."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMED = ("transformers", "transformers.tokenization_utils_base", "huggingface_hub")
_REMEMBER = {"ssl": ("http.client", "urllib.request")}
"""Standard modules that look for another once, when they are imported, and have less in them without it."""
OPENSSL = ("ssl", "_hashlib")
"""What brings OpenSSL, for `without`: 4 MB, and a part of a start. `hashlib` then has CPython's digests, slow for gigabytes."""
_SHA2 = ("_sha2",) if sys.version_info >= (3, 12) else ("_sha256", "_sha512")
_INSTEAD = {"_hashlib": ("_blake2", "_md5", "_sha1", *_SHA2, "_sha3")}
"""Modules that must be there for another to be left out: some systems build CPython without digests of its own."""
_FRAMEWORKS = ("torch", "tensorflow", "jax", "flax")


@contextmanager
def uncollected() -> Iterator[None]:
    """Import in here, without the garbage collector.

    None of what imports make is garbage, and looking for it takes a tenth of a start. What is there at the end is not
    looked at again, since it stays as long as the process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Import in here as if those of `names` that nobody has imported yet were not installed.

    For what a library uses where it is there, and its user does not need. Whoever imports `_REMEMBER`'s modules later gets
    whole ones: libraries that need those were not imported in here.
    """
    unknown = [name for name in names if name not in sys.modules]
    absent = [name for name in unknown if all(map(find_spec, _INSTEAD.get(name, ())))]
    halved = {each for name in absent for each in _REMEMBER.get(name, ())} - sys.modules.keys()
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: the documented way to stop an import
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        for name in halved:
            sys.modules.pop(name, None)


def without_frameworks() -> None:
    """As if no other framework of arrays were installed, in this process.

    mlx-lm imports transformers, and that imports PyTorch wherever it is installed, for tensors that nobody here makes:
    seconds, and half a gigabyte.
    """
    for name in _FRAMEWORKS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # the documented way to stop an import


@contextmanager
def libraries_by_name() -> Iterator[None]:
    """Import mlx-lm in here as if transformers and huggingface_hub consisted of names.

    Their real selves make tokenizers and fetch models, which an engine does neither of, and take most of its start: two
    thirds of a second, and 30 MB. Outside of here they can be imported as ever.
    """
    for name in _NAMED:
        if name not in sys.modules:
            sys.modules[name] = _Names(name)
    try:
        yield
    finally:
        for name in _NAMED:
            if isinstance(sys.modules[name], _Names):
                del sys.modules[name]


class _Names(ModuleType):
    """A module in which every name is a class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named


class _Named:
    """A class or function of theirs: to be named, derived from, and registered."""

    def __init__(self, *_: object, **__: object) -> None:
        raise RuntimeError(
            "An engine makes no tokenizers and fetches nothing: it has not imported the library for it."
        )

    @classmethod
    def register(cls, *_: object, **__: object) -> None:
        """What mlx-lm registers is for tokenizers that it makes."""
