"""The bytes of single tokens, in both shapes of tokenizers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pensieved.chat.token_bytes import TokenBytes
from support.tiny_tokenizers import byte_fallback, byte_level


@given(text=st.text(max_size=40))
def test_bytes_of_a_text_are_the_bytes_of_its_tokens(text):
    raw = TokenBytes(byte_level())
    ids = byte_level().encode(text, add_special_tokens=False).ids
    assert b"".join(map(raw, ids)) == text.encode()


@given(text=st.text(alphabet=st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=40))
def test_sentencepiece_prepends_a_space(text):
    raw = TokenBytes(byte_fallback())
    ids = byte_fallback().encode(text, add_special_tokens=False).ids
    assert b"".join(map(raw, ids)) == (b" " + text.encode() if text else b"")


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_added_tokens_are_their_names(make):
    assert TokenBytes(make())(make().token_to_id("<|im_end|>")) == b"<|im_end|>"


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_ids_beyond_the_vocabulary_have_no_bytes(make):
    assert TokenBytes(make())(10**6) == b""


def test_every_byte_has_a_token():
    raw = TokenBytes(byte_level())
    assert {raw(number) for number in range(byte_level().get_vocab_size())} >= {
        bytes([byte]) for byte in range(256)
    }
