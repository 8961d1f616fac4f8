"""Any split of the ids gives the text of all of them at once."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pensieved.chat.detokenizer import Detokenizer, Vocabulary
from support.tiny_tokenizers import byte_fallback, byte_level

TOKENIZERS = {"byte_level": byte_level, "byte_fallback": byte_fallback}
VOCABULARIES = {name: Vocabulary(tokenizer()) for name, tokenizer in TOKENIZERS.items()}
BYTE_FALLBACK_SIZE = byte_fallback().get_vocab_size()
BYTE_LEVEL_SIZE = byte_level().get_vocab_size()


def pieces(ids, cuts):
    edges = [0, *sorted({cut % (len(ids) + 1) for cut in cuts}), len(ids)]
    return [ids[start:end] for start, end in itertools.pairwise(edges)]


def streamed(vocabulary, parts):
    detokenizer = Detokenizer(vocabulary)
    return "".join([*(detokenizer.feed(part) for part in parts), detokenizer.flush()])


@given(
    ids=st.lists(st.integers(0, BYTE_LEVEL_SIZE - 1), max_size=120),
    cuts=st.lists(st.integers(0, 200), max_size=20),
)
def test_byte_level_any_ids_any_split(ids, cuts):
    vocabulary = VOCABULARIES["byte_level"]
    assert streamed(vocabulary, pieces(ids, cuts)) == vocabulary.decode(ids)
    assert streamed(vocabulary, [[number] for number in ids]) == vocabulary.decode(ids)


@given(
    ids=st.lists(st.integers(0, BYTE_FALLBACK_SIZE - 1), max_size=120),
    cuts=st.lists(st.integers(0, 200), max_size=20),
)
def test_byte_fallback_any_ids_any_split(ids, cuts):
    vocabulary = VOCABULARIES["byte_fallback"]
    assert streamed(vocabulary, pieces(ids, cuts)) == vocabulary.decode(ids)
    assert streamed(vocabulary, [[number] for number in ids]) == vocabulary.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(max_size=60))
@example("🙂🎉 東京 né\n\n  two  spaces \ufffd")
def test_text_comes_back(name, text):
    vocabulary = VOCABULARIES[name]
    ids = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
    assert streamed(vocabulary, [[number] for number in ids]) == vocabulary.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_half_characters(name):
    vocabulary = VOCABULARIES[name]
    detokenizer = Detokenizer(vocabulary)
    ids = vocabulary.tokenizer.encode("a🙂b", add_special_tokens=False).ids
    given_out = [detokenizer.feed([number]) for number in ids]
    assert len(ids) > 3
    assert not any("\ufffd" in text for text in given_out)
    assert "".join(given_out) == "a🙂b"


def test_special_tokens_are_skipped_and_others_are_not():
    vocabulary = VOCABULARIES["byte_level"]
    tokenizer = vocabulary.tokenizer
    ids = [
        tokenizer.token_to_id("<|im_start|>"),
        *tokenizer.encode(" a").ids,
        tokenizer.token_to_id("<think>"),
        tokenizer.token_to_id("</s>"),
        *tokenizer.encode(" b").ids,
    ]
    assert streamed(vocabulary, [[number] for number in ids]) == " a<think> b"


def test_a_special_token_does_not_eat_the_space_behind_it():
    vocabulary = VOCABULARIES["byte_fallback"]
    tokenizer = vocabulary.tokenizer
    words = tokenizer.encode("the fox", add_special_tokens=False).ids
    ids = [*words, tokenizer.token_to_id("<s>"), *tokenizer.encode("the dog", add_special_tokens=False).ids]
    assert streamed(vocabulary, [[number] for number in ids]) == "the fox the dog"


def test_broken_utf8_without_end_costs_a_bounded_window():
    vocabulary = VOCABULARIES["byte_level"]
    lead = vocabulary.tokenizer.token_to_id("ð")  # the byte 0xF0
    detokenizer = Detokenizer(vocabulary)
    text = ""
    for _ in range(500):
        text += detokenizer.feed([lead])
        assert len(detokenizer._window) <= 40
    assert text + detokenizer.flush() == "\ufffd" * 500


def test_the_window_does_not_grow_with_the_answer():
    vocabulary = VOCABULARIES["byte_fallback"]
    detokenizer = Detokenizer(vocabulary)
    for number in vocabulary.tokenizer.encode("the quick brown fox " * 200).ids:
        detokenizer.feed([number])
        assert len(detokenizer._window) < 10
