"""Responses and events, cut at any place."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.wire import EventReader, ResponseReader, WireError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n \r\nA\r\n0123456789\r\n0\r\n\r\n"
LENGTH = HEAD + b"content-length: 5\r\n\r\nhello"
UNTIL_CLOSE = HEAD.replace(b"1.1", b"1.0") + b"\r\nhello"
EVENTS = b': hello\r\nevent: a\r\ndata: {"x": 1}\r\n\r\ndata:two\ndata: lines\n\nid: 3\n\ndata: [DONE]\n\n'


def pieces(data, cuts):
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 500)))
def test_a_chunked_body_is_whole_wherever_it_is_cut(cuts):
    reader = ResponseReader()
    assert b"".join(map(reader.feed, pieces(CHUNKED, cuts))) == b"hello 0123456789"
    assert reader.done
    assert reader.status == 200
    assert reader.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize("response", [LENGTH, UNTIL_CLOSE])
@given(cuts=st.lists(st.integers(0, 500)))
def test_a_body_with_a_length_or_none_is_whole(response, cuts):
    reader = ResponseReader()
    assert b"".join(map(reader.feed, pieces(response, cuts))) == b"hello"
    reader.close()
    assert reader.done


@pytest.mark.parametrize("response", [b"", HEAD, CHUNKED[:-5], LENGTH[:-1]])
def test_a_response_that_ends_early_is_no_response(response):
    reader = ResponseReader()
    reader.feed(response)
    with pytest.raises(WireError, match="ended within"):
        reader.close()


def test_something_else_is_no_response():
    with pytest.raises(WireError, match="no HTTP response"):
        ResponseReader().feed(b"SSH-2.0-x\r\n\r\n")


@given(st.lists(st.integers(0, 500)))
def test_events_are_the_same_wherever_they_are_cut(cuts):
    reader = EventReader()
    events = [event for piece in pieces(EVENTS, cuts) for event in reader.feed(piece)]
    assert events == [b'{"x": 1}', b"two\nlines", b"[DONE]"]
