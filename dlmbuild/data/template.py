"""The chat template of a base: the one object that training, prompting and export render conversations with.

Rendered as transformers does it (jinja2's immutable sandbox with `trim_blocks` and `lstrip_blocks`, see
transformers/utils/chat_template_utils.py), without importing transformers, and tokenised once, without special tokens
being added a second time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from dlmbuild.errors import BaseModelError, DataError, Where
from dlmbuild.io.json_file import read_json_object

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": …}"""

_SENTINEL = "Sentinel7Text"
_DATE = date(2024, 7, 26)
"""The day that a template is told when it asks for today's. transformers and llama.cpp tell it the day on which they
run, so rows would differ from one day to the next; templates of Llama 3 take this one where nobody tells them."""


def template_source(folder: Path, config: dict[str, Any]) -> str:
    """The template that transformers uses: the file's, or else that of the tokenizer's `config`; "" if there is none.

    Of several that have names it is the default one. Raises BaseModelError for a file that cannot be read.
    """
    file = folder / "chat_template.jinja"
    try:
        source = file.read_text("utf-8") if file.exists() else config.get("chat_template")
    except (OSError, UnicodeDecodeError) as error:
        raise BaseModelError(
            "the base's chat template cannot be read",
            where=Where(str(file)),
            why=str(error),
            do="save the template again as UTF-8 text, or fetch the base again",
        ) from None
    if isinstance(source, list):
        source = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}.get("default")
    return source if isinstance(source, str) and source.strip() else ""


@dataclass(frozen=True)
class ChatTemplate:
    """A jinja source with the special tokens that it may name."""

    source: str
    special_tokens: dict[str, str]
    """"bos_token", "eos_token", … → text, as the tokenizer's configuration has them."""

    @classmethod
    def from_base(cls, folder: Path) -> ChatTemplate:
        """The template of a checkpoint folder. Raises BaseModelError where there is none."""
        config = read_json_object(folder / "tokenizer_config.json", BaseModelError)
        source = template_source(folder, config)
        if not source:
            raise BaseModelError(
                "the base has no chat template",
                why="questions and answers are trained in the form in which the model will be asked",
                do="take an instruct variant of this base",
            )
        return cls(source, special_tokens(config))

    def render(self, messages: Sequence[Message], *, ask: bool) -> str:
        """The conversation as text; with `ask`, up to the point where the assistant begins to answer."""
        try:
            text: str = self._compiled.render(
                messages=list(messages), add_generation_prompt=ask, tools=None, documents=None, **self.special_tokens
            )
        except Exception as error:  # a template is a program that came with the base; it can fail in any way
            raise DataError(
                f"the base's chat template refuses this conversation: {error}",
                why="roles: " + ", ".join(message["role"] for message in messages),
                do="take another base, or mend its chat template; some allow no system_prompt",
            ) from None
        return text

    def answer(self, messages: Sequence[Message]) -> tuple[str, str]:
        """A conversation that ends with an answer, cut where the answer begins: (what is given, what is learned).

        The second part ends with the token that ends a turn; what a template writes between turns is dropped.
        """
        given = self.render(messages[:-1], ask=True)
        whole = self.render(messages, ask=False)
        if not whole.startswith(given):
            raise BaseModelError(
                "the base's chat template renders a question differently once it is answered",
                why="the model would be asked in another form than it was trained in",
                do="take a base whose template keeps earlier turns as they are",
            )
        learned = whole[len(given) :]
        end = learned.rfind(self.turn_end)
        if end < 0:
            raise BaseModelError(
                f"the base's chat template leaves out {self.turn_end!r} at the end of this answer",
                why="a model trained with it would not stop",
                do="take another base",
            )
        return given, learned[: end + len(self.turn_end)]

    @cached_property
    def turn_end(self) -> str:
        """The text of the token that ends an answer, found by rendering one."""
        asked = [{"role": "user", "content": "Q"}]
        given = self.render(asked, ask=True)
        whole = self.render([*asked, {"role": "assistant", "content": _SENTINEL}], ask=False)
        after = whole[len(given) :].partition(_SENTINEL)[2].strip()
        if not after:
            raise BaseModelError(
                "the base's chat template does not mark the end of an answer",
                why="a model trained with it would never stop",
                do="take an instruct variant of this base",
            )
        return after

    @property
    def asks_for_the_date(self) -> str:
        """The day that is written for today's into what is trained; "" where the template does not ask."""
        return _DATE.strftime("%d %B %Y") if "strftime_now" in self.source else ""

    @cached_property
    def _compiled(self) -> Any:
        from jinja2 import nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """`{% generation %}` … `{% endgeneration %}` says which part is an answer; it renders what is in it."""

            tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

            def parse(self, parser: Any) -> nodes.Node:
                line = next(parser.stream).lineno
                return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

        def raise_exception(message: str) -> None:
            import jinja2

            raise jinja2.TemplateError(message)

        def tojson(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
            return json.dumps(value, ensure_ascii=ensure_ascii, **layout)

        extensions = [Generation, loopcontrols]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.filters["tojson"] = tojson
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = _DATE.strftime
        return environment.from_string(self.source)


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The named special tokens of a tokenizer_config.json."""
    named = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            named[name] = value
    return named
