"""BLAKE2, for an engine.

`hashlib` has it from this module, too, but loads OpenSSL first for the digests that it has from there: 3 MB in every engine.
"""

try:
    from _blake2 import blake2b
except ImportError:  # it is CPython's own
    from hashlib import blake2b

__all__ = ["blake2b"]
