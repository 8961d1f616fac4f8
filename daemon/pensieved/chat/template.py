"""Chat templates: Jinja programs that come with a model and turn messages into its prompt format.

The environment is the one transformers renders with (sandboxed, trimmed blocks, loop controls, its own
`tojson`, `raise_exception`, `strftime_now`, the `generation` tag), so that a prompt here is character for
character what the model's authors trained and tested with. transformers itself is not imported: it costs
over a second and 50 MB.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pensieved.errors import RequestError, RequestErrorKind, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2.nodes import CallBlock
    from jinja2.parser import Parser

Message = dict[str, Any]

PLAIN_TEMPLATE = (
    "{%- for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n\n{% endfor %}"
    "{%- if add_generation_prompt %}Assistant:{% endif %}"
)
"""For base models, which come without a template: a transcript that such a model continues plausibly."""

# A private-use character cannot come out of a template's own text. The space shows whether the template trims.
_CONTINUE_MARK = "\ue000continue\ue000"
_CONTINUE_TAG = f"{_CONTINUE_MARK} "

# Whatever a sandboxed program over the request's own data can raise, besides Jinja's errors.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks trainable text; for rendering it is transparent."""

    tags = {"generation"}  # noqa: RUF012  Jinja's own declaration

    def parse(self, parser: Parser) -> CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body, lineno=line)

    def _body(self, caller: Any) -> str:
        return str(caller())


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  the filter's signature in transformers
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005  templates mean the user's own day


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """A compiled template.

    Args:
        source: the Jinja text.
        special_tokens: what the template knows as `bos_token`, `eos_token` and so on.

    Raises:
        UnsupportedModelError: the text is not a Jinja template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise UnsupportedModelError(f"The model's chat template cannot be parsed: {error}.") from error
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Message], *, answer: bool = True, **options: Any) -> str:
        """The prompt's text; `answer` adds the header of the assistant's turn.

        Raises:
            RequestError: INVALID, with what the template says against this conversation.
        """
        variables = {
            **self._special_tokens,
            "messages": list(messages),
            "tools": None,
            "documents": None,
            "add_generation_prompt": answer,
            **options,
        }
        try:
            return self._template.render(variables)
        except _RENDER_ERRORS as error:
            raise RequestError(
                RequestErrorKind.INVALID,
                f"The model's chat template refuses this conversation: {error}",
                path="messages",
            ) from error

    def render_open(self, messages: Sequence[Message], **options: Any) -> str:
        """The prompt's text, cut where the last message's text ends, for the model to continue it.

        Whatever the template writes after a turn (end markers, newlines) is cut away. Where the template trims
        the text, trailing spaces of it are lost, as in transformers' `continue_final_message`.
        """
        text = self.render([*messages[:-1], _tagged(messages[-1])], answer=False, **options)
        at = text.rfind(_CONTINUE_MARK)
        if at < 0:
            raise RequestError(
                RequestErrorKind.INVALID,
                "The model's chat template drops a final assistant turn, so the answer cannot continue it.",
                path="messages",
            )
        trimmed = not text.startswith(_CONTINUE_TAG, at)
        return text[:at].rstrip() if trimmed else text[:at]


def _tagged(message: Message) -> Message:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + _CONTINUE_TAG}
    *others, last = content
    return {**message, "content": [*others, {**last, "text": last["text"] + _CONTINUE_TAG}]}
