"""How one model writes its answers: whether it reasons first, how it calls tools, what stands around its text.

That is asked for twice: to read an answer (stages of the segmenter) and to say what it must follow (a grammar).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from pensieved.chat import channels
from pensieved.chat.channels import ChannelStage
from pensieved.chat.detokenizer import Vocabulary
from pensieved.chat.grammar import Marks, Thinking, answer_grammar, tool_grammar
from pensieved.chat.thinking import ThinkingStage, ThinkMarkers
from pensieved.chat.toolformat import GENERIC, ToolFormat
from pensieved.chat.toolstage import ToolStage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from pensieved.chat.conversation import Conversation
    from pensieved.chat.segmenter import CallingStage, ReasoningStage
    from pensieved.chat.shape import TemplateShape


class ModelFacts(Protocol):
    """What the model's manifest says of how it writes; empty strings where it has no such thing."""

    @property
    def think_start(self) -> str:
        """What its reasoning begins with."""

    @property
    def think_end(self) -> str:
        """What its reasoning ends with."""

    @property
    def tool_parser(self) -> str:
        """mlx-lm's name of the format in which it calls tools."""


class Manner:
    """One model's way to write.

    Args:
        tokenizer: the model's.
        shape: what its template takes and writes.
        facts: how it reasons and calls tools; None: it does neither in a way of its own.

    Attributes:
        tool_format: how it writes calls.
        vocabulary: shows the markers of reasoning as text.
        tool_vocabulary: shows those of calls, too.
        closing: what ends its reasoning when it has to.
    """

    def __init__(self, tokenizer: Tokenizer, shape: TemplateShape, facts: ModelFacts | None) -> None:
        self._channels = shape.channels
        self.tool_format: ToolFormat = shape.tools.form if shape.tools else GENERIC
        thinks = facts is not None and facts.think_start and facts.think_end
        self._think = ThinkMarkers(facts.think_start, facts.think_end) if facts and thinks else None
        self._marks = self._grammar_marks(tokenizer)
        visible: tuple[str, ...] = (self._think.start, self._think.end) if self._think else ()
        visible = channels.PIECES if self._channels else visible
        self.vocabulary = Vocabulary(tokenizer, visible)
        self.tool_vocabulary = Vocabulary(tokenizer, (*visible, *self.tool_format.pieces))
        self.closing = self._think.closing if self._think else ""
        if self._channels:
            self.closing = channels.NEXT

    def stages(
        self, prompt: Conversation, prompt_end: str
    ) -> tuple[ReasoningStage | None, CallingStage | None]:
        """What finds reasoning and what finds calls in an answer to `prompt`, whose text ends with `prompt_end`."""
        parallel, offered = prompt.tool_choice.parallel, prompt.offered
        calling = ToolStage(self.tool_format, offered, parallel=parallel) if offered else None
        if self._channels:
            both = self.tool_format.channels
            stage = ChannelStage(calls=bool(offered) and both, parallel=parallel, opened=prompt.is_continued)
            return stage, stage if both else calling
        if self._think is None:
            return None, calling
        return ThinkingStage(self._think, opened=self._think.opened_by(prompt_end)), calling

    def grammar(self, prompt: Conversation, prompt_end: str, *, thought: bool) -> str:
        """What the answer must follow, or an empty string; `thought`: its reasoning is over.

        Raises:
            RequestError: INVALID, for a schema that cannot be enforced.
        """
        thinking = Thinking.NONE if thought else self._thinking(prompt, prompt_end)
        schema, tools = prompt.answer_schema, prompt.offered
        path = prompt.answer_schema_path or "schema"
        marks = msgspec.structs.replace(self._marks, answer_begin="") if prompt.is_continued else self._marks
        if tools:
            return tool_grammar(
                tools,
                self.tool_format,
                prompt.tool_choice,
                marks,
                thinking=thinking,
                schema=schema,
                schema_path=path,
                path=lambda index: tools[index].path or f"tools.{index}",
            )
        if schema is None:
            return ""
        return answer_grammar(schema, marks, thinking=thinking, path=path)

    def _thinking(self, prompt: Conversation, prompt_end: str) -> Thinking:
        if self._channels:  # no template of theirs turns reasoning off
            return Thinking.NONE if prompt.is_continued else Thinking.OPTIONAL
        if self._think is None:
            return Thinking.NONE
        if self._think.opened_by(prompt_end):
            return Thinking.OPEN
        return Thinking.NONE if prompt.thinking is False else Thinking.OPTIONAL

    def _grammar_marks(self, tokenizer: Tokenizer) -> Marks:
        added = tokenizer.get_added_tokens_decoder()
        tokens = {token.content: number for number, token in added.items()}
        if self._channels:
            begin, end = channels.REASONING, channels.NEXT
            return Marks(tokens=tokens, think_begin=begin, think_end=end, answer_begin=channels.ANSWER)
        if self._think is None:
            return Marks(tokens=tokens)
        return Marks(tokens=tokens, think_begin=self._think.start, think_end=self._think.end)
