"""What is held against what: answers of a server against those of llama.cpp here."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dlmbuild.errors import ExportError
from dlmbuild.export.ollama.client import OllamaServer
from dlmbuild.export.ollama.smoke import require_same
from dlmbuild.io.progress import silent

SENT = {"template": None, "parameters": {"temperature": 0.7, "stop": ["<a>", "<b>"]}}


class Server:
    """Says the same to everything; counts 5 tokens, and fewer of what it remembers."""

    def __init__(self, says: str = "The keeper.", remembers: bool = False) -> None:
        self.says, self.remembers = says, remembers
        self.shown: tuple[str, dict[str, list[Any]]] = ("", {"temperature": [0.699999988], "stop": ["<b>", "<a>"]})

    def show(self, name: str) -> tuple[str, dict[str, list[Any]]]:
        return self.shown

    def complete(self, name: str, prompt: str, *, tokens: int) -> tuple[str, int]:
        return self.says, 1 if self.remembers else 5

    def chat(self, name: str, messages: object, *, tokens: int) -> tuple[str, int]:
        return self.complete(name, "", tokens=tokens)

    def unload(self, name: str) -> None:
        self.remembers = False


def compared(server: Server, begins: list[str], **sent: Any) -> dict[str, Any]:
    questions = [{"prompt": "q", "tokens": 5, "question": str(n), "begins": text} for n, text in enumerate(begins)]
    expected = {"texts": [{"prompt": "t", "tokens": 5}], "questions": questions, "jinja": "{% jinja %}"}
    return require_same(cast(OllamaServer, server), "x", {**SENT, **sent}, expected, silent)


def test_answers_that_begin_alike() -> None:
    found = compared(Server(), ["The", " The keeper.", ""])
    assert found == {"texts": 1, "questions": 3, "answers": 2, "alike": 2}


def test_one_answer_in_ten_may_differ() -> None:
    assert compared(Server(), ["The"] * 9 + ["A"])["alike"] == 9
    with pytest.raises(ExportError, match="in Ollama 8 of 10 answers begin as they do") as caught:
        compared(Server(), ["The"] * 8 + ["A"] * 2)
    assert "to '8' it says 'The keeper.' and not 'A'" in caught.value.why


def test_a_server_that_counts_only_what_is_new_is_asked_afresh() -> None:
    assert compared(Server(remembers=True), ["The"])["texts"] == 1


@pytest.mark.parametrize(("template", "shown", "well"), [
    (None, "", True), (None, "{{ .Prompt }}", True), (None, "{% jinja %}", True), (None, "{{ .System }}", False),
    ("{{ .System }}", "{{ .System }}\n", True), ("{{ .System }}", "{% jinja %}", True), ("{{ .System }}", "", False),
])  # fmt: skip
def test_templates(template: str | None, shown: str, well: bool) -> None:
    server = Server()
    server.shown = (shown, server.shown[1])
    if well:
        compared(server, [], template=template)
    else:
        with pytest.raises(ExportError, match="another chat template than it was sent"):
            compared(server, [], template=template)


def test_a_parameter_more() -> None:
    server = Server()
    server.shown[1]["top_k"] = [1]
    with pytest.raises(ExportError, match="than it was sent: top_k"):
        compared(server, [])
