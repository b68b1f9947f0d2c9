"""The part of Go's text/template that our templates are written in, read strictly: whatever else there is fails.

https://pkg.go.dev/text/template; which fields there are says Ollama's template/template.go (`Execute`, `collate`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Node = str | tuple[str, str, list["Node"], list["Node"]]


def render_go(source: str, messages: list[dict[str, str]]) -> str:
    """What a server of Ollama's makes of a conversation, of which no two messages in a row have the same role."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    tokens = iter(re.split(r"\{\{ (.*?) \}\}", source))
    nodes, end = _parse(_numbered(tokens))
    assert end == ""
    return _run(nodes, {".System": system, "$.Messages": messages})


def _numbered(tokens: Iterator[str]) -> Iterator[tuple[bool, str]]:
    for number, token in enumerate(tokens):
        assert number % 2 or "{{" not in token
        yield bool(number % 2), token


def _parse(tokens: Iterator[tuple[bool, str]]) -> tuple[list[Node], str]:
    nodes: list[Node] = []
    for action, token in tokens:
        if not action:
            nodes.append(token)
        elif token == "end" or token.startswith("else"):
            return nodes, token
        elif token.startswith(("if ", "range ")):
            nodes.append(_branch(token, tokens))
        else:
            nodes.append(("do", token, [], []))
    return nodes, ""


def _branch(token: str, tokens: Iterator[tuple[bool, str]]) -> Node:
    kind, _, what = token.partition(" ")
    body, end = _parse(tokens)
    other: list[Node] = []
    if end.startswith("else if "):
        other = [_branch(end.removeprefix("else "), tokens)]
    elif end == "else":
        other, end = _parse(tokens)
        assert end == "end"
    else:
        assert end == "end"
    return (kind, what, body, other)


def _run(nodes: list[Node], names: dict[str, Any]) -> str:
    text = ""
    for node in nodes:
        if isinstance(node, str):
            text += node
            continue
        kind, what, body, other = node
        if kind == "if":
            text += _run(body if _holds(what, names) else other, names)
        elif kind == "range":
            assert what == "$i, $message := .Messages"
            for number, message in enumerate(names["$.Messages"]):
                names.update({"$i": number, "$message.Role": message["role"], "$message.Content": message["content"]})
                text += _run(body, names)
        elif found := re.fullmatch(r"(\$\w+) (:?)= (true|false)", what):
            assert (found[1] in names) != bool(found[2])
            names[found[1]] = found[3] == "true"
        else:
            text += what[1:-1] if re.fullmatch(r'"[^"\\]*"', what) else names[what]
    return text


def _holds(what: str, names: dict[str, Any]) -> bool:
    if found := re.fullmatch(r'eq (\S+) "(\w+)"', what):
        return bool(names[found[1]] == found[2])
    if what == "eq (len (slice $.Messages $i)) 1":
        return bool(names["$i"] == len(names["$.Messages"]) - 1)
    return bool(names[what])
