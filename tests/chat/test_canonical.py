"""Volatile lines are dropped before the template sees them, and counted."""

import pytest

from pensieved.chat.canonical import canonical
from pensieved.chat.conversation import Conversation, Role, TextPart, ToolResultPart, Turn, text_turn
from pensieved.errors import UsageError
from pensieved.settings.load import load_settings
from pensieved.settings.schema import PromptSettings

DEFAULTS = PromptSettings().drop_lines
BILLING = "x-anthropic-billing-header: cc_version=2.1.197.abc; cc_entrypoint=cli;"
TOTAL = "<total_tokens>12345 tokens left</total_tokens>"


def cleaned(*turns, patterns=DEFAULTS):
    conversation, dropped = canonical(Conversation(turns), patterns)
    return conversation.turns, dropped


def test_claude_codes_lines():
    system = Turn(Role.SYSTEM, (TextPart(BILLING), TextPart("You are kind.")))
    user = text_turn(Role.USER, f"Hello\n{TOTAL}\nthere")
    assert cleaned(system, user) == (
        (text_turn(Role.SYSTEM, "You are kind."), text_turn(Role.USER, "Hello\nthere")),
        2,
    )


def test_a_system_turn_of_nothing_else_disappears():
    assert cleaned(text_turn(Role.SYSTEM, BILLING), text_turn(Role.USER, "Hi")) == (
        (text_turn(Role.USER, "Hi"),),
        1,
    )


def test_a_users_turn_of_nothing_else_stays():
    assert cleaned(text_turn(Role.USER, TOTAL)) == ((text_turn(Role.USER, TOTAL),), 0)


def test_only_whole_lines_of_users_and_system():
    turns = (
        text_turn(Role.USER, f"What is {TOTAL}?"),
        text_turn(Role.ASSISTANT, TOTAL),
        Turn(Role.TOOL, (ToolResultPart("a", "b", TOTAL),)),
        text_turn(Role.USER, "  keep\n\n\nblanks  \n"),
    )
    assert cleaned(*turns) == (turns, 0)


def test_own_patterns():
    turn = text_turn(Role.USER, "Today is Monday\nHow are you?")
    assert cleaned(turn, patterns=["(?i)today is .*"]) == ((text_turn(Role.USER, "How are you?"),), 1)
    assert cleaned(turn, patterns=[]) == ((turn,), 0)


def test_what_is_no_regular_expression_is_a_config_error(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('[prompt]\ndrop_lines = ["("]\n')
    with pytest.raises(UsageError, match="no regular expression"):
        load_settings(config=path)
