"""Rendering is transformers' rendering, character for character and id for id."""

import pytest
from transformers import PreTrainedTokenizerFast

from pensieved.chat.conversation import Conversation, Role, text_turn
from pensieved.chat.template import ChatTemplate
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.errors import RequestError, RequestErrorKind, UnsupportedModelError
from support import chat_templates
from support.tiny_tokenizers import byte_level

TOKENS = {"bos_token": "<|bos|>", "eos_token": "</s>", "pad_token": "<pad>"}

CONVERSATIONS = {
    "one": "u",
    "system": "su",
    "multi": "uaua" + "u",
    "system multi": "suau",
    "assistant last": "ua",
}
TEXTS = ["Hello", "  indented\n\ntwo lines ", 'quotes "\'" & <tags>', "émile 東京 🙂", "last one"]
ROLES = {"s": "system", "u": "user", "a": "assistant"}


def messages(letters, *, as_parts=False):
    return [
        {
            "role": ROLES[letter],
            "content": [{"type": "text", "text": text}] if as_parts else text,
        }
        for letter, text in zip(letters, TEXTS, strict=False)
    ]


def reference(template):
    return PreTrainedTokenizerFast(tokenizer_object=byte_level(), chat_template=template, **TOKENS)


@pytest.mark.parametrize("letters", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
@pytest.mark.parametrize("name", chat_templates.ALL)
def test_equals_transformers(name, letters):
    source = chat_templates.ALL[name]
    chat = messages(letters, as_parts=name == "parts")
    template = ChatTemplate(source, TOKENS)
    if name == "gemma" and letters[0] == "s":
        with pytest.raises(RequestError, match="System role not supported") as caught:
            template.render(chat)
        assert caught.value.kind is RequestErrorKind.INVALID
        return
    for answer in (True, False):
        expected = reference(source).apply_chat_template(chat, tokenize=False, add_generation_prompt=answer)
        assert template.render(chat, answer=answer) == expected


@pytest.mark.parametrize("prefill", ["Paris", "Paris is ", "{\n", " 東"])
@pytest.mark.parametrize("name", chat_templates.ALL)
def test_prefill_equals_continue_final_message(name, prefill):
    source = chat_templates.ALL[name]
    as_parts = name == "parts"
    chat = [*messages("u", as_parts=as_parts), *messages("a", as_parts=as_parts)]
    chat[-1]["content"] = [{"type": "text", "text": prefill}] if as_parts else prefill
    expected = reference(source).apply_chat_template(chat, tokenize=False, continue_final_message=True)
    assert ChatTemplate(source, TOKENS).render_open(chat) == expected
    assert expected.rstrip().endswith(prefill.strip())


@pytest.mark.parametrize("thinking", [True, False])
def test_enable_thinking_reaches_the_template(thinking):
    chat = messages("u")
    expected = reference(chat_templates.QWEN3).apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    assert ChatTemplate(chat_templates.QWEN3, TOKENS).render(chat, enable_thinking=thinking) == expected
    assert expected.endswith("</think>\n\n") is not thinking


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "qwen3", "phi3", "parts"])
def test_ids_equal_transformers(name):
    source = chat_templates.ALL[name]
    chat = messages("suau", as_parts=name == "parts")
    expected = reference(source).apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    tokenizer = ChatTokenizer(byte_level(), source, TOKENS, eos_token_ids=())
    turns = tuple(text_turn(Role(ROLES[letter]), text) for letter, text in zip("suau", TEXTS, strict=False))
    assert tokenizer.encode_chat(Conversation(turns)) == expected


def test_template_may_not_reach_out_of_its_sandbox():
    template = ChatTemplate("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(RequestError, match="refuses this conversation"):
        template.render(messages("u"))


def test_a_python_error_in_the_template_is_the_conversations():
    template = ChatTemplate("{{ messages[0]['content'] + 1 }}", {})
    with pytest.raises(RequestError) as caught:
        template.render(messages("u"))
    assert caught.value.kind is RequestErrorKind.INVALID


def test_not_jinja():
    with pytest.raises(UnsupportedModelError, match="cannot be parsed"):
        ChatTemplate("{% for %}", {})


def test_prefill_that_the_template_drops_is_refused():
    template = ChatTemplate("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", {})
    with pytest.raises(RequestError, match="drops a final assistant turn"):
        template.render_open(messages("ua"))
