"""The chat template of a base as Ollama's servers render it themselves: in Go's text/template.

Not a table of families: what a jinja template writes around the messages is found by rendering it, and the result is
held to it on a set of conversations. Where the two would differ there is no Go template, and the model needs a server
that renders the jinja inside the GGUF, which Ollama does from 0.30 on.

A Go template is written although such servers exist: an import without one is given one of Ollama's own where the jinja
looks alike (`Named` in https://github.com/ollama/ollama/blob/main/template/template.go), and that one says nothing of
what a template writes where no system prompt is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dlmbuild.data.template import ChatTemplate, Message
from dlmbuild.doc.prompt import what_is_lost
from dlmbuild.errors import DataError

_SYSTEM, _FIRST, _ANSWER, _SECOND = (f"Sentinel{number}Text" for number in (3, 5, 7, 9))


class Turns(NamedTuple):
    """What a template writes around the messages of a conversation whose last one is a question."""

    alone: str
    """Before the first question where there is no system prompt."""
    before_system: str
    after_system: str
    """Up to the first question. Both are empty where the template takes no system prompt."""
    answered: str
    """Between a question and its answer."""
    asked_again: str
    """Between an answer and the next question."""
    asked: str
    """After the last question."""

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation that ends with a question, as the Go template renders it."""
        system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
        text = f"{self.before_system}{system}{self.after_system}" if system else self.alone
        said = [message for message in messages if message["role"] != "system"]
        for number, message in enumerate(said):
            question = message["role"] == "user"
            text += (self.asked_again if question and number else "") + message["content"]
            text += (self.asked if number == len(said) - 1 else self.answered) if question else ""
        return text

    @property
    def go(self) -> str:
        """The template in Go's language, for the fields that Ollama gives it: .System and .Messages."""
        system = f"{{{{ if .System }}}}{_plain(self.before_system)}{{{{ .System }}}}{_plain(self.after_system)}"
        return (
            f"{system}{{{{ else }}}}{_plain(self.alone)}{{{{ end }}}}{{{{ $asked := false }}}}"
            '{{ range $i, $message := .Messages }}{{ if eq $message.Role "user" }}'
            f"{{{{ if $asked }}}}{_plain(self.asked_again)}{{{{ end }}}}"
            "{{ $asked = true }}{{ $message.Content }}"
            f"{{{{ if eq (len (slice $.Messages $i)) 1 }}}}{_plain(self.asked)}"
            f"{{{{ else }}}}{_plain(self.answered)}{{{{ end }}}}"
            '{{ else if eq $message.Role "assistant" }}{{ $message.Content }}{{ end }}{{ end }}'
        )


def go_template(template: ChatTemplate, *, adds_bos: bool) -> str | None:
    """A base's chat template in Go's language; None if it cannot be said there.

    `adds_bos` says whether the runtime puts the token that begins a text in front by itself.
    """
    turns = _turns(template)
    if turns is None:
        return None
    if any(_rendered(template, messages) != turns.render(messages) for messages in _conversations(turns)):
        return None
    bos = template.special_tokens.get("bos_token", "")
    if adds_bos and bos:
        turns = turns._replace(alone=turns.alone.removeprefix(bos), before_system=turns.before_system.removeprefix(bos))
    return None if what_is_lost(turns.go) else turns.go


def _turns(template: ChatTemplate) -> Turns | None:
    talk = [_user(_FIRST), _assistant(_ANSWER), _user(_SECOND)]
    alone = _cut(_rendered(template, talk), _FIRST, _ANSWER, _SECOND)
    if alone is None:
        return None
    before, answered, asked_again, asked = alone
    told = _cut(_rendered(template, [{"role": "system", "content": _SYSTEM}, *talk[:1]]), _SYSTEM, _FIRST)
    before_system, after_system = told[:2] if told else ("", "")
    return Turns(before, before_system, after_system, answered, asked_again, asked)


def _cut(text: str | None, *marks: str) -> list[str] | None:
    """What stands before, between and behind the marks; None if they do not come once each, in this order."""
    parts = []
    for mark in marks:
        before, found, text = (text or "").partition(mark)
        if not found:
            return None
        parts.append(before)
    rest = text or ""
    return None if any(mark in part for mark in marks for part in (*parts, rest)) else [*parts, rest]


def _conversations(turns: Turns) -> list[list[Message]]:
    """Every order of roles that a chat has, texts that look like markup among them."""
    odd = 'What is {{ .System }}? "Quotes", \\n, {% raw %} and\n\ntwo  lines'
    talks = [
        [_user("Who trims the lamp?")],
        [_user(odd)],
        [_user("Who?"), _assistant("The keeper."), _user("When?")],
        [_user("Who?"), _assistant("The\nkeeper."), _user(odd), _assistant("At dusk."), _user("Why?")],
    ]
    if turns.before_system or turns.after_system:
        for system in ("You keep a lighthouse.", odd):
            talks += [[{"role": "system", "content": system}, *talk] for talk in talks[:4]]
    return talks


def _rendered(template: ChatTemplate, messages: Sequence[Message]) -> str | None:
    try:
        return template.render(messages, ask=True)
    except DataError:  # it refuses such a conversation, for example one with a system prompt
        return None


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _plain(text: str) -> str:
    """Text as a Go template writes it down: what would open an action is put into one."""
    return text.replace("{{", '{{ "{{" }}')
