"""A model folder becomes a tokenizer with its chat format."""

import json

import pytest

from pensieved.chat.conversation import Conversation, Role, text_turn
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.errors import UnsupportedModelError
from support import chat_templates
from support.tiny_tokenizers import byte_fallback, byte_level

TOKENS = {"bos_token": "<|bos|>", "eos_token": "</s>"}
QUESTION = Conversation((text_turn(Role.USER, "What is the capital of France?"),))


@pytest.fixture
def folder(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    config = {
        "bos_token": {"content": "<|bos|>", "lstrip": False},
        "eos_token": "</s>",
        "chat_template": "config",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def configure(folder, **values):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def number(text):
    return byte_level().token_to_id(text)


def test_template_from_the_configuration(folder):
    configure(folder, chat_template="{{ bos_token }}{{ messages[0].content }}")
    assert ChatTokenizer.open(folder, ()).render(QUESTION) == "<|bos|>What is the capital of France?"


def test_named_templates(folder):
    configure(
        folder,
        chat_template=[{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}],
    )
    assert ChatTokenizer.open(folder, ()).render(QUESTION) == "yes"


def test_a_template_file_wins(folder):
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert ChatTokenizer.open(folder, ()).render(QUESTION) == "json"
    (folder / "chat_template.jinja").write_text("jinja")
    assert ChatTokenizer.open(folder, ()).render(QUESTION) == "jinja"


def test_special_tokens_from_their_own_file(folder):
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>"}))
    (folder / "chat_template.jinja").write_text("{{ bos_token }}")
    assert ChatTokenizer.open(folder, ()).render(QUESTION) == "<s>"


def test_stop_tokens_are_the_configured_ones_and_the_templates_own(folder):
    (folder / "chat_template.jinja").write_text(chat_templates.CHATML)
    tokenizer = ChatTokenizer.open(folder, (number("<pad>"),))
    assert set(tokenizer.stop_token_ids) == {number("<pad>"), number("</s>"), number("<|im_end|>")}


def test_truncation_and_padding_of_the_file_are_off(folder):
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "direction": "Right", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    (folder / "chat_template.jinja").write_text(chat_templates.CHATML)
    assert len(ChatTokenizer.open(folder, ()).encode_chat(QUESTION)) > 3


def test_prefill_is_left_open(folder):
    (folder / "chat_template.jinja").write_text(chat_templates.CHATML)
    conversation = Conversation((*QUESTION.turns, text_turn(Role.ASSISTANT, "It is ")))
    assert ChatTokenizer.open(folder, ()).render(conversation).endswith("<|im_start|>assistant\nIt is ")


def test_base_model_sees_a_transcript():
    tokenizer = ChatTokenizer(byte_level(), None, TOKENS, ())
    system = text_turn(Role.SYSTEM, "Be brief.")
    assert tokenizer.render(Conversation((system, *QUESTION.turns))) == (
        "System: Be brief.\n\nUser: What is the capital of France?\n\nAssistant:"
    )
    started = Conversation((*QUESTION.turns, text_turn(Role.ASSISTANT, "It is")))
    assert tokenizer.render(started).endswith("\n\nAssistant: It is")
    assert "\nUser:" in tokenizer.turn_stops


def test_encode_and_decode():
    tokenizer = ChatTokenizer(
        byte_fallback(), chat_templates.MISTRAL, {"bos_token": "<s>", "eos_token": "</s>"}, ()
    )
    ids = tokenizer.encode("the quick 🙂")
    assert tokenizer.decode(ids) == "the quick 🙂"
    detokenizer = tokenizer.detokenizer()
    assert "".join([*(detokenizer.feed([each]) for each in ids), detokenizer.flush()]) == "the quick 🙂"


def test_no_tokenizer(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.json"):
        ChatTokenizer.open(tmp_path, ())


def test_broken_files(folder):
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(UnsupportedModelError, match="not valid JSON"):
        ChatTokenizer.open(folder, ())
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="cannot be read"):
        ChatTokenizer.open(folder, ())
