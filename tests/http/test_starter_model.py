"""The whole front on the starter model's own tokenizer and template."""

import itertools

import anthropic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pensieved.chat.conversation import Conversation, Role, text_turn
from pensieved.chat.segmenter import Segmenter
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.control.serving import ServingModel
from pensieved.control.status import Phase
from support.front import running_front

pytestmark = pytest.mark.slow

TEXTS = {"system": "Be brief.", "user": "What is the capital of France? 東京 🙂", "assistant": "Paris."}


@pytest.fixture(scope="module")
def tokenizer(starter_model):
    return ChatTokenizer.open(
        starter_model.path, starter_model.manifest.eos_token_ids, starter_model.manifest.tokenizer
    )


@pytest.fixture(scope="module")
def reference(starter_model):
    return AutoTokenizer.from_pretrained(starter_model.path)


@pytest.mark.parametrize(
    "roles", [["user"], ["system", "user"], ["user", "assistant", "user"], ["user", "system"]]
)
def test_prompt_ids_equal_transformers(tokenizer, reference, roles):
    chat = [{"role": role, "content": TEXTS[role]} for role in roles]
    expected = reference.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    conversation = Conversation(tuple(text_turn(Role(role), TEXTS[role]) for role in roles))
    assert tokenizer.encode_chat(conversation) == expected


def test_end_of_turn_is_a_stop_token(tokenizer, reference):
    assert reference.convert_tokens_to_ids("<|im_end|>") in tokenizer.stop_token_ids


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=80), cuts=st.lists(st.integers(0, 80), max_size=10))
def test_any_split_of_any_ids(tokenizer, ids, cuts):
    edges = [0, *sorted({cut % (len(ids) + 1) for cut in cuts}), len(ids)]
    detokenizer = tokenizer.detokenizer()
    parts = [detokenizer.feed(ids[start:end]) for start, end in itertools.pairwise(edges)]
    assert "".join([*parts, detokenizer.flush()]) == tokenizer.decode(ids)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=60), stop=st.text(min_size=1, max_size=3))
def test_stop_strings_in_any_text(tokenizer, text, stop):
    segmenter = Segmenter(tokenizer.detokenizer(), [stop])
    ids = tokenizer.encode(text)
    decoded = tokenizer.decode(ids)
    deltas = [delta for number in ids for delta in segmenter.feed([number])] + segmenter.finish()
    assert "".join(delta.text for delta in deltas) == decoded.partition(stop)[0]
    assert segmenter.stopped_by == (stop if stop in decoded else None)


def test_a_message_through_the_sdk(starter_model, tokenizer):
    with running_front(serving=False) as front:
        manifest = starter_model.manifest
        front.engine.answer = lambda _: [*tokenizer.encode("It is Paris. 🙂"), *tokenizer.stop_token_ids]
        front.daemon.serving = ServingModel(
            name=manifest.name,
            aliases=(),
            context_length=manifest.context_length,
            loaded_at=0.0,
            manifest=manifest,
            text=tokenizer,
            engine=front.engine.client,
        )
        front.daemon.status.enter(Phase.READY)
        with anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=0) as client:
            ask = {"model": manifest.name, "messages": [{"role": "user", "content": TEXTS["user"]}]}
            message = client.messages.create(**ask, max_tokens=50)
            assert message.content[0].text == "It is Paris. 🙂"
            assert message.usage.input_tokens == client.messages.count_tokens(**ask).input_tokens
            assert message.usage.output_tokens == len(tokenizer.encode("It is Paris. 🙂"))
