"""What is far too long costs what the context is worth, not what was sent."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieved.chat.conversation import Conversation, Role, text_turn
from pensieved.chat.encoding import Encoder
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.errors import RequestError, RequestErrorKind
from support.chat_templates import CHATML
from support.front import TOKENS
from support.tiny_tokenizers import byte_fallback, byte_level

CONTEXT = 512
CLAUDE_CODES = re.compile(r"prompt is too long[^0-9]*(\d+)\s*tokens?\s*>\s*(\d+)", re.IGNORECASE)
"""How Claude Code reads the refusal."""


class Counting:
    """A tokenizer that notes how much it was given."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.sizes = []

    def encode_batch_fast(self, texts, **kwargs):
        self.sizes += map(len, texts)
        return self._tokenizer.encode_batch_fast(texts, **kwargs)


TEXTS = {
    "words": "the quick brown fox jumps ",
    "one word": "a",
    "line breaks": "\n",
    "three bytes": "東京は日本の首都です",
    "pictures": "🙂🎉",
    "marks": "<|im_start|>",
}


@pytest.fixture(params=[byte_level, byte_fallback])
def tokenizer(request):
    return Counting(request.param())


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_far_too_long_is_read_up_to_where_that_is_certain(tokenizer, text):
    size = 4_000_000
    with pytest.raises(RequestError) as caught:
        Encoder(tokenizer).ids(text * (size // len(text)), special=False, most=CONTEXT)
    assert caught.value.kind is RequestErrorKind.TOO_LONG
    tokens, most = map(int, CLAUDE_CODES.search(caught.value.what).groups())
    assert "at least" in caught.value.what
    assert most == CONTEXT < tokens < len(text) * size
    assert sum(tokenizer.sizes) < 200_000


def test_the_number_that_is_told_is_not_too_high(tokenizer):
    text = TEXTS["words"] * 4_000
    with pytest.raises(RequestError) as caught:
        Encoder(tokenizer).ids(text, special=False, most=CONTEXT)
    told = int(CLAUDE_CODES.search(caught.value.what)[1])
    assert told <= len(Encoder(tokenizer).ids(text, special=False))


def test_what_is_a_little_too_long_is_counted_exactly():
    tokenizer = ChatTokenizer(byte_level(), CHATML, TOKENS, ())
    conversation = Conversation((text_turn(Role.USER, "word " * 2000),))
    assert len(tokenizer.encode_chat(conversation, CONTEXT)) == tokenizer.count_chat(conversation, CONTEXT)


def test_what_looks_too_long_and_fits_is_encoded_like_anything_else(tokenizer):
    text = "<|im_start|>" * 30_000  # twelve bytes to a token
    ids = Encoder(tokenizer).ids(text, special=True, most=35_000)
    assert ids == Encoder(tokenizer).ids(text, special=True)
    assert Encoder(tokenizer).count(text, special=True, most=35_000) == pytest.approx(len(ids), abs=64 * 6)


def test_counting_holds_no_more_than_a_slice(tokenizer):
    text = TEXTS["words"] * 40_000
    counted = Encoder(tokenizer).count(text, special=False, most=CONTEXT)
    assert max(tokenizer.sizes) <= 64 * 1024
    assert counted == pytest.approx(len(Encoder(tokenizer).ids(text, special=False)), abs=64 * 16)


@settings(deadline=None, max_examples=20)
@given(
    piece=st.lists(st.sampled_from([*TEXTS.values(), "def ", "x(", "}\n", " ", "<think>"]), min_size=1),
    size=st.integers(70_000, 140_000),
)
def test_slices_differ_from_the_whole_by_less_than_is_allowed_for(piece, size):
    text = ("".join(piece) * (size // len("".join(piece)) + 1))[:size]
    encoder = Encoder(byte_level())
    whole = len(encoder.ids(text, special=False))
    assert abs(encoder.count(text, special=False, most=1) - whole) < 64
