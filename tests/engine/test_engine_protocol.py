from hypothesis import given
from hypothesis import strategies as st

from pensieved.engine.protocol import (
    Cancel,
    Fault,
    FinishReason,
    FrameBuffer,
    Heartbeat,
    Hello,
    Load,
    Loaded,
    MemoryStats,
    Output,
    Refused,
    Sampling,
    Step,
    Submit,
    Taken,
    Warm,
    Warming,
    decode_from_engine,
    decode_to_engine,
    encode,
)

ids = st.integers(0, 200_000)
id_lists = st.lists(ids, max_size=20).map(tuple)
numbers = st.floats(-100, 100)
samplings = st.builds(
    Sampling,
    temperature=numbers,
    top_p=numbers,
    top_k=ids,
    min_p=numbers,
    seed=st.none() | st.integers(0, 2**63),
    logit_bias=st.lists(st.tuples(ids, numbers), max_size=3).map(tuple),
)
to_engine = st.one_of(
    st.builds(Load, st.text(), ids, ids, st.sampled_from(["auto", "cpu", "gpu"]), st.booleans()),
    st.builds(Submit, ids, id_lists, ids, id_lists, samplings, ids),
    st.builds(Cancel, ids),
)
outputs = st.builds(Output, ids, id_lists, st.none() | st.sampled_from(FinishReason))
from_engine = st.one_of(
    st.builds(Hello, ids, st.text(), st.text(), st.text()),
    st.just(Warming()),
    st.builds(Loaded, ids, numbers, st.booleans()),
    st.builds(Warm, numbers),
    st.builds(Step, st.lists(outputs, max_size=8).map(tuple)),
    st.builds(Heartbeat, ids, ids, ids, memory=st.builds(MemoryStats, ids, ids, st.booleans(), ids)),
    st.builds(Taken, ids),
    st.builds(Refused, ids, st.text(), st.booleans()),
    st.builds(Fault, st.text(), st.booleans()),
)


def cut(data, places):
    places = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.lists(to_engine, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_the_bytes_gives_the_daemons_frames(frames, places):
    buffer = FrameBuffer()
    pieces = cut(b"".join(map(encode, frames)), places)
    assert [decode_to_engine(body) for piece in pieces for body in buffer.feed(piece)] == frames


@given(st.lists(from_engine, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_the_bytes_gives_the_engines_frames(frames, places):
    buffer = FrameBuffer()
    pieces = cut(b"".join(map(encode, frames)), places)
    assert [decode_from_engine(body) for piece in pieces for body in buffer.feed(piece)] == frames


def test_part_of_a_frame_is_no_frame():
    data = encode(Cancel(7))
    buffer = FrameBuffer()
    assert list(buffer.feed(data[:-1])) == []
    assert [decode_to_engine(body) for body in buffer.feed(data[-1:])] == [Cancel(7)]
