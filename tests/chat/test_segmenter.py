"""Stop strings end the answer exactly where they begin, however the text arrives."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pensieved.chat.detokenizer import Detokenizer, Vocabulary
from pensieved.chat.events import TextDelta
from pensieved.chat.segmenter import Segmenter
from pensieved.chat.stops import StopScanner, StopStrings
from support.tiny_tokenizers import byte_level

VOCABULARY = Vocabulary(byte_level())
LETTERS = st.text(alphabet="ab🙂\n", max_size=40)
STOPS = st.lists(st.text(alphabet="ab🙂\n", min_size=1, max_size=4), max_size=4)


def naive(text, stops):
    """First complete stop string wins, the longest of those; said without any automaton."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


def joined(deltas):
    return "".join(delta.text for delta in deltas)


def scanned(chunks, stops):
    scanner = StopScanner(StopStrings(stops))
    text = "".join(joined(scanner.feed([TextDelta(chunk)])) for chunk in chunks)
    return text + joined(scanner.flush()), scanner.matched


@given(chunks=st.lists(LETTERS, max_size=8), stops=STOPS)
def test_scanner_finds_what_a_naive_search_finds(chunks, stops):
    assert scanned(chunks, stops) == naive("".join(chunks), stops)


@given(text=LETTERS, stops=STOPS)
def test_only_what_could_begin_a_stop_string_is_held_back(text, stops):
    scanner = StopScanner(StopStrings(stops))
    passed = joined(scanner.feed([TextDelta(text)]))
    if scanner.matched is None:
        held = text[len(passed) :]
        assert text == passed + held
        assert held == "" or any(stop.startswith(held) for stop in stops)
        longer = [text[start:] for start in range(len(passed))]
        assert not any(stop.startswith(end) for stop in stops for end in longer)


def segmented(parts, stops):
    segmenter = Segmenter(Detokenizer(VOCABULARY), stops)
    deltas = [delta for part in parts for delta in segmenter.feed(part)]
    return joined([*deltas, *segmenter.finish()]), segmenter.stopped_by, segmenter.consumed


@given(
    text=st.text(alphabet="abc STOP🙂東\n", max_size=60),
    stops=st.lists(st.sampled_from(["STOP", "🙂", "東a", "\n\n", "TO", "b c"]), max_size=3),
    cuts=st.lists(st.integers(0, 80), max_size=12),
)
def test_any_split_of_the_ids_gives_the_same_answer(text, stops, cuts):
    ids = byte_level().encode(text).ids
    edges = [0, *sorted({cut % (len(ids) + 1) for cut in cuts}), len(ids)]
    parts = [ids[start:end] for start, end in itertools.pairwise(edges)]
    whole = segmented([ids], stops)
    assert segmented(parts, stops) == whole
    assert whole[:2] == naive(text, stops)


def test_the_count_ends_with_the_id_that_completed_the_stop_string():
    ids = byte_level().encode("one two three four").ids
    text, stop, consumed = segmented([ids], ["three"])
    assert (text, stop) == ("one two ", "three")
    assert consumed < len(ids)
    assert "three" in byte_level().decode(ids[:consumed])
    assert "three" not in byte_level().decode(ids[: consumed - 1])


def test_text_that_arrives_together_is_one_delta():
    segmenter = Segmenter(Detokenizer(VOCABULARY), ["never"])
    ids = byte_level().encode("one two three four").ids
    assert segmenter.feed(ids) == [TextDelta("one two three four")]
    assert segmenter.finish() == []


def test_what_was_held_back_comes_out_at_the_end():
    segmenter = Segmenter(Detokenizer(VOCABULARY), ["STOPPED"])
    assert joined(segmenter.feed(byte_level().encode("a STOP").ids)) == "a "
    assert joined(segmenter.finish()) == "STOP"


def test_without_stop_strings_everything_passes():
    assert segmented([byte_level().encode("plain").ids], []) == (
        "plain",
        None,
        len(byte_level().encode("plain").ids),
    )
