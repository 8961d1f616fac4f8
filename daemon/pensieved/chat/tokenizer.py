"""A model's tokenizer and chat format: conversations in, token ids out, and text back.

Uses `tokenizers` (the Rust library beneath transformers) directly; every prepared model folder has a
`tokenizer.json`. All of it may be called from any thread.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from pensieved.chat import channels
from pensieved.chat.breakpoints import find_breakpoints
from pensieved.chat.conversation import Conversation, RawPrompt, Role, TextPart, Turn
from pensieved.chat.detokenizer import Detokenizer
from pensieved.chat.encoding import Encoder
from pensieved.chat.manner import Manner
from pensieved.chat.model_files import read_chat_template, read_tokenizer_config, special_tokens
from pensieved.chat.segmenter import Segmenter
from pensieved.chat.shape import fit, probe
from pensieved.chat.template import PLAIN_TEMPLATE, ChatTemplate
from pensieved.chat.token_bytes import TokenBytes
from pensieved.chat.toolshape import definition, generic_description
from pensieved.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pensieved.chat.breakpoints import Breakpoints
    from pensieved.chat.manner import ModelFacts

_PLAIN_STOPS = ("\nUser:", "\nSystem:")
_PROMPT_END = 64  # ids at a prompt's end that tell whether it opens the model's reasoning


class ChatTokenizer:
    """Token ids for conversations and text for token ids.

    Args:
        tokenizer: from the model's `tokenizer.json`.
        template: the chat template's source, or None for a base model, which then sees a plain transcript
            (``User: …``, ``Assistant: …``) and whose turn ends where it begins to write the next speaker's.
        tokens: the special tokens by name (`bos_token`, `eos_token` …).
        eos_token_ids: ids that end an answer according to the model's configuration.
        facts: how the model reasons and calls tools; None: it does neither in a way of its own.

    Attributes:
        tool_format: how the model writes calls.
        stop_token_ids: ids that end an answer: the configured ones, `eos_token`, and the token that the
            template itself writes after an assistant's turn, which some models' configurations forget.
        token_bytes: what each id stands for, by itself.
        turn_stops: strings that end an answer as an end token would; empty where there is a template.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None,
        tokens: Mapping[str, str],
        eos_token_ids: Iterable[int],
        facts: ModelFacts | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer)
        self._is_plain = template is None
        self._template = ChatTemplate(PLAIN_TEMPLATE if template is None else template, tokens)
        self._shape = probe(self._template, facts.tool_parser if facts else "")
        self._manner = Manner(tokenizer, self._shape, facts)
        self.tool_format = self._manner.tool_format
        self.token_bytes = TokenBytes(tokenizer)
        eos = tokenizer.token_to_id(tokens.get("eos_token", ""))
        ends = {*eos_token_ids, eos, self._end_of_turn()}
        if self._shape.channels:
            ends.add(tokenizer.token_to_id(channels.CALL))
        self.stop_token_ids: tuple[int, ...] = tuple(sorted(number for number in ends if number is not None))
        self.turn_stops: tuple[str, ...] = _PLAIN_STOPS if self._is_plain else ()

    @classmethod
    def open(
        cls, folder: Path, eos_token_ids: Sequence[int], facts: ModelFacts | None = None
    ) -> ChatTokenizer:
        """The tokenizer of a model folder.

        Raises:
            UnsupportedModelError: no usable `tokenizer.json`, or a template that is not Jinja.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UnsupportedModelError(f"{folder} has no tokenizer.json, so text cannot become tokens.")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises plain Exception
            raise UnsupportedModelError(f"{path} cannot be read: {error}.") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        config = read_tokenizer_config(folder)
        template = read_chat_template(folder, config)
        return cls(tokenizer, template, special_tokens(config), eos_token_ids, facts)

    def render(self, conversation: Conversation) -> str:
        """The prompt's text.

        Raises:
            RequestError: INVALID, when the template refuses the conversation.
        """
        turns = self._with_notes(conversation)
        options = self._options(conversation)
        messages = fit(turns, self._shape)
        if conversation.is_continued:
            return self._template.render_open(messages, **options)
        return self._template.render(messages, **options)

    def _options(self, conversation: Conversation) -> dict[str, Any]:
        """Variables for the template; those that it does not know are nothing to it."""
        options: dict[str, Any] = {}
        if conversation.thinking is not None:  # Qwen and most others; DeepSeek and Granite
            options |= {"enable_thinking": conversation.thinking, "thinking": conversation.thinking}
        if conversation.effort is not None:
            options["reasoning_effort"] = conversation.effort
        if conversation.offered and self._shape.tools:
            options["tools"] = [definition(tool) for tool in conversation.offered]
        return options

    def _with_notes(self, conversation: Conversation) -> tuple[Turn, ...]:
        """The turns, with what the template has no place for at the end of the system text."""
        notes: list[str] = []
        if conversation.offered and not self._shape.tools:
            notes.append(generic_description(conversation.offered))
        if conversation.answer_schema is not None:
            schema = json.dumps(conversation.answer_schema, ensure_ascii=False)
            notes.append(f"Answer with JSON alone, valid against this JSON schema:\n{schema}")
        if not notes:
            return conversation.turns
        parts = tuple(TextPart(note) for note in notes)
        if conversation.turns and conversation.turns[0].role is Role.SYSTEM:
            first, *others = conversation.turns
            return (Turn(Role.SYSTEM, first.parts + parts), *others)
        return (Turn(Role.SYSTEM, parts), *conversation.turns)

    def encode_chat(self, conversation: Conversation, most: int | None = None) -> list[int]:
        """The prompt's ids. Templates write special tokens themselves, so none are added; the plain one does not.

        Raises:
            RequestError: TOO_LONG, where they are far more than `most`; INVALID, as `render`.
        """
        return self._encoder.ids(self.render(conversation), special=self._is_plain, most=most)

    def breakpoints(
        self, conversation: Conversation, ids: Sequence[int], *, everywhere: bool = False
    ) -> Breakpoints:
        """Where other prompts may part from this one, whose ids are `ids`; see `breakpoints`."""
        return find_breakpoints(
            conversation,
            ids,
            render=self.render,
            encode=partial(self._encoder.ids, special=self._is_plain),
            everywhere=everywhere,
        )

    def count_chat(self, conversation: Conversation, most: int) -> int:
        """How many ids the prompt has: exact, unless they are far more than `most`.

        Raises:
            RequestError: INVALID, as `render`.
        """
        return self._encoder.count(self.render(conversation), special=self._is_plain, most=most)

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """Ids of plain text, with the special tokens the tokenizer puts around it.

        Raises:
            RequestError: TOO_LONG, where they are far more than `most`.
        """
        return self._encoder.ids(text, special=True, most=most)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        return self._manner.vocabulary.decode(ids)

    def detokenizer(self, *, calls: bool = False) -> Detokenizer:
        """A fresh incremental decoder, for one answer; with `calls`, special tokens of tool calls are text."""
        return Detokenizer(self._manner.tool_vocabulary if calls else self._manner.vocabulary)

    def segmenter(
        self, prompt: Conversation | RawPrompt, ids: Sequence[int], stops: Iterable[str] = ()
    ) -> Segmenter:
        """What makes events of the answer to `prompt`, whose ids are `ids`."""
        if isinstance(prompt, RawPrompt):
            return Segmenter(self.detokenizer(), stops)
        thinking, tools = self._manner.stages(prompt, self._end_of(ids))
        return Segmenter(
            self.detokenizer(calls=bool(prompt.offered)),
            (*stops, *self.turn_stops),
            thinking=thinking,
            tools=tools,
            thinking_budget=prompt.thinking_budget,
        )

    def grammar(self, prompt: Conversation | RawPrompt, ids: Sequence[int], *, thought: bool = False) -> str:
        """What the answer must follow, or an empty string; `thought`: its reasoning is over.

        Raises:
            RequestError: INVALID, for a schema that cannot be enforced.
        """
        if isinstance(prompt, RawPrompt):
            return ""
        return self._manner.grammar(prompt, self._end_of(ids), thought=thought)

    def closing_ids(self) -> list[int]:
        """Ids that end the model's reasoning."""
        return self._encoder.ids(self._manner.closing, special=False)

    def _end_of(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids[-_PROMPT_END:]), skip_special_tokens=False)

    def _end_of_turn(self) -> int | None:
        """The special token that the template writes directly after an assistant's text."""
        behind = self._shape.behind_answer.lstrip()
        added = self._tokenizer.get_added_tokens_decoder()
        matches = [
            (len(token.content), number)
            for number, token in added.items()
            if token.special and behind.startswith(token.content)
        ]
        return max(matches)[1] if matches else None
