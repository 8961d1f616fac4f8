"""Merges of a BPE vocabulary that is stored without them, as sentencepiece's are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Merge = tuple[str, str]


def merges_by_score(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[Merge]:
    """Every way to make a token of two others, likeliest result first."""
    return _merges(
        vocabulary, lambda token: -scores[vocabulary[token]] if vocabulary[token] < len(scores) else 0.0
    )


def merges_by_position(vocabulary: Mapping[str, int]) -> list[Merge]:
    """Every way to make a token of two others, earliest result first."""
    return _merges(vocabulary, lambda token: float(vocabulary[token]))


def _merges(vocabulary: Mapping[str, int], rank: Callable[[str], float]) -> list[Merge]:
    found = []
    for token in vocabulary:
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
        pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found += [(rank(token), pair) for pair in pairs]
    found.sort(key=lambda item: (item[0], -len(item[1][0]), -len(item[1][1])))
    return [pair for _, pair in found]
