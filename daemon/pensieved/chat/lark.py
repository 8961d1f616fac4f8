"""Lark texts for llguidance: the frame around an answer's JSON, and what may be thought before it.

A marker that is one token of the vocabulary can come as that token or spelled out, and llguidance distinguishes the
two: grammars here take both, since the parser does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.schema import complaint
from pensieved.errors import RequestError, RequestErrorKind

if TYPE_CHECKING:
    from pensieved.chat.schema import Schema

# Without `no_forcing`, llguidance tokenizes text that must come and allows only its first token. Where the tokenizer
# cannot give back every byte (SmolLM2 has no token for some, others drop a space), that token is a wrong one, and
# nothing can follow it (guidance-ai/llguidance#366). So the model chooses among all tokens that fit.
_PRELUDE = r"""%llguidance {"no_forcing": true}
TEXT: /(.|\n)*/
GAP: /[ \n\t]{0,4}/
"""


class Thinking(StrEnum):
    """How an answer may begin."""

    NONE = "none"  # with the answer
    OPTIONAL = "optional"  # the model may open a block of thinking
    OPEN = "open"  # the prompt has opened one: the model closes it


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """What a grammar must know of the model.

    Attributes:
        tokens: ids of the tokenizer's added tokens, special or not, by their text.
        think_begin: what opens a block of thinking.
        think_end: what closes it.
        answer_begin: what stands before an answer that is no call.
    """

    tokens: Mapping[str, int] = {}
    think_begin: str = "<think>"
    think_end: str = "</think>"
    answer_begin: str = ""


class Grammar:
    """A Lark text in the making, with the schemas that it refers to."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._rules: list[str] = []
        self._schemas: list[dict[str, object]] = []
        names = sorted((name for name in marks.tokens if name), key=len, reverse=True)
        self._token = re.compile("|".join(map(re.escape, names))) if names else None

    def rule(self, name: str, body: str) -> str:
        """Define a rule; returns its name."""
        self._rules.append(f"{name}: {body or _EMPTY}")
        return name.partition("[")[0]

    def json(self, name: str, schema: Schema) -> str:
        """JSON that is valid against a compiled schema."""
        self._schemas.append({"name": name, "json_schema": schema})
        return f"@{name}"

    def literal(self, text: str) -> str:
        """Exactly `text`, the tokens in it as such or spelled out."""
        parts: list[str] = []
        end = 0
        for match in self._token.finditer(text) if self._token else ():
            parts += [_quoted(text[end : match.start()]), self._either(match[0])]
            end = match.end()
        return " ".join(part for part in (*parts, _quoted(text[end:])) if part)

    def until(self, name: str, text: str) -> str:
        """Anything up to and including the first `text`."""
        spelled = self.rule(f"{name}[lazy]", f"TEXT {_quoted(text)}")
        token = self._token.match(text) if self._token else None
        if token is None:
            return spelled
        return f"({spelled} | TEXT <[{self._marks.tokens[token[0]]}]> {self.literal(text[token.end() :])})"

    def answer(self, schema: Schema) -> str:
        """An answer that is JSON."""
        return f"{self.literal(self._marks.answer_begin)} {self.json('answer', schema)}"

    def text(self, thinking: Thinking) -> str:
        """The finished grammar of an answer that consists of the rule `body`, behind whatever may be thought."""
        start = "body"
        if thinking is not Thinking.NONE:
            thought = f"{self.until('thought', self._marks.think_end)} GAP"
            begin = self.literal(self._marks.think_begin)
            start = f"{thought} body" if thinking is Thinking.OPEN else f"({begin} {thought})? body"
        lark = "\n".join((_PRELUDE, f"start: {start}", *self._rules, ""))
        text = json.dumps({"grammars": [{"lark_grammar": lark}, *self._schemas]})
        problem = complaint(text)
        if problem:
            raise RequestError(
                RequestErrorKind.INVALID, f"The request's schemas are too complex together: {problem}"
            )
        return text

    def _either(self, token: str) -> str:
        return f"({_quoted(token)} | <[{self._marks.tokens[token]}]>)"


_EMPTY = '""'


def _quoted(text: str) -> str:
    """A literal; nothing for an empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""
