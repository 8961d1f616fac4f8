"""A model's tokenizer and chat format: conversations in, token ids out, and text back.

Uses `tokenizers` (the Rust library beneath transformers) directly; every prepared model folder has a
`tokenizer.json`. Encoding releases the GIL and all of it may be called from any thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from pensieved.chat.conversation import Conversation, Role, text_turn
from pensieved.chat.detokenizer import Detokenizer, Vocabulary
from pensieved.chat.model_files import read_chat_template, read_tokenizer_config, special_tokens
from pensieved.chat.shape import fit, probe
from pensieved.chat.template import PLAIN_TEMPLATE, ChatTemplate
from pensieved.errors import RequestError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_PLAIN_STOPS = ("\nUser:", "\nSystem:")


class ChatTokenizer:
    """Token ids for conversations and text for token ids.

    Args:
        tokenizer: from the model's `tokenizer.json`.
        template: the chat template's source, or None for a base model, which then sees a plain transcript
            (``User: …``, ``Assistant: …``) and whose turn ends where it begins to write the next speaker's.
        tokens: the special tokens by name (`bos_token`, `eos_token` …).
        eos_token_ids: ids that end an answer according to the model's configuration.

    Attributes:
        stop_token_ids: ids that end an answer: the configured ones, `eos_token`, and the token that the
            template itself writes after an assistant's turn, which some models' configurations forget.
        turn_stops: strings that end an answer as an end token would; empty where there is a template.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None,
        tokens: Mapping[str, str],
        eos_token_ids: Iterable[int],
    ) -> None:
        self._tokenizer = tokenizer
        self._is_plain = template is None
        self._template = ChatTemplate(PLAIN_TEMPLATE if template is None else template, tokens)
        self._shape = probe(self._template)
        self._vocabulary = Vocabulary(tokenizer)
        eos = tokenizer.token_to_id(tokens.get("eos_token", ""))
        ends = {*eos_token_ids, eos, self._end_of_turn()}
        self.stop_token_ids: tuple[int, ...] = tuple(sorted(number for number in ends if number is not None))
        self.turn_stops: tuple[str, ...] = _PLAIN_STOPS if self._is_plain else ()

    @classmethod
    def open(cls, folder: Path, eos_token_ids: Sequence[int]) -> ChatTokenizer:
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
        return cls(tokenizer, read_chat_template(folder, config), special_tokens(config), eos_token_ids)

    def render(self, conversation: Conversation) -> str:
        """The prompt's text.

        Raises:
            RequestError: INVALID, when the template refuses the conversation.
        """
        turns = conversation.turns
        options: dict[str, Any] = {}
        if conversation.thinking is not None:
            options["enable_thinking"] = conversation.thinking
        messages = fit(turns, self._shape)
        if turns and turns[-1].role is Role.ASSISTANT:
            return self._template.render_open(messages, **options)
        return self._template.render(messages, **options)

    def encode_chat(self, conversation: Conversation) -> list[int]:
        """The prompt's ids. Templates write special tokens themselves, so none are added; the plain one does not."""
        text = self.render(conversation)
        return self._tokenizer.encode(text, add_special_tokens=self._is_plain).ids

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with the special tokens the tokenizer puts around it."""
        return self._tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        return self._vocabulary.decode(ids)

    def detokenizer(self) -> Detokenizer:
        """A fresh incremental decoder, for one answer."""
        return Detokenizer(self._vocabulary)

    def _end_of_turn(self) -> int | None:
        """The special token that the template writes directly after an assistant's text."""
        answer = "probe answer"
        turns = (text_turn(Role.USER, "probe question"), text_turn(Role.ASSISTANT, answer))
        try:
            text = self._template.render(fit(turns, self._shape), answer=False)
        except RequestError:
            return None
        _, found, after = text.rpartition(answer)
        if not found:
            return None
        added = self._tokenizer.get_added_tokens_decoder()
        matches = [
            (len(token.content), number)
            for number, token in added.items()
            if token.special and after.lstrip().startswith(token.content)
        ]
        return max(matches)[1] if matches else None
