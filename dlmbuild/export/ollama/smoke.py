"""Whether a model in Ollama is the one that was exported: the same tokens, the same answers as llama.cpp gives here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlmbuild.errors import ExportError
from dlmbuild.export.ollama.client import OllamaServer
from dlmbuild.export.parity import text_of
from dlmbuild.inference.llama_cpp import CONTEXT, LlamaCpp
from dlmbuild.io.gguf_file import read_header
from dlmbuild.io.progress import Progress

_TOKENS = 16
_ASKED = 10
_CERTAIN = 0.5
"""A choice whose log-probability is that far from the next one's is the same on any processor and in any build."""
_LEAST_ALIKE = 0.9
"""Share of the answers that have to begin as they do here."""


def expected_answers(
    *, gguf: Path, reference: Path, questions: Sequence[str], out: Path, progress: Progress
) -> dict[str, Any]:
    """What llama.cpp makes of an export here, for `require_same`: {"texts": […], "questions": […], "jinja": …}.

    `questions` are those of the reference, in its order. Left out are texts that spell a control token: as plain text
    they cannot be sent.
    """
    progress("asking llama.cpp")
    probes = json.loads(reference.read_bytes())["probes"]
    longest = max(len(probe["ids"]) for probe in probes) + 1  # with the token that may begin a text
    runtime = LlamaCpp(gguf, context=max(CONTEXT, longest + _TOKENS))
    fixed, asked = probes[: len(probes) - len(questions)], probes[len(probes) - len(questions) :]
    metadata = read_header(gguf).metadata
    stops = {metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")}
    texts: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for probe in fixed:
        prompt, ids = runtime.as_sent(text_of(probe))
        if ids[-len(probe["ids"]) :] == probe["ids"]:
            texts.append({"prompt": prompt, "tokens": len(ids)})
    for number, (question, probe) in enumerate(zip(questions, asked, strict=True)):
        progress("asking llama.cpp", number, len(asked))
        prompt, ids = runtime.as_sent(text_of(probe))
        if len(answers) < _ASKED and ids[-len(probe["ids"]) :] == probe["ids"]:
            said = {"prompt": prompt, "tokens": len(ids), "question": question}
            answers.append({**said, "begins": _certain(runtime, ids, stops)})
    jinja = str(metadata.get("tokenizer.chat_template", ""))
    return {"texts": texts, "questions": answers, "jinja": jinja}


def require_same(
    server: OllamaServer, name: str, sent: Mapping[str, Any], expected: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Hold the model `name` to what was `sent` and to `expected_answers`. Raises ExportError for what differs.

    Returns how much was compared: {"texts": …, "questions": …, "answers": …, "alike": …}.
    """
    template, parameters = server.show(name)
    _require_settings(template, parameters, sent, str(expected["jinja"]))
    for text in expected["texts"]:
        _, count = server.complete(name, text["prompt"], tokens=1)
        if count != text["tokens"]:  # of a text that it remembers, a server may count only the rest
            server.unload(name)
            _, count = server.complete(name, text["prompt"], tokens=1)
        _require_count(count, text["tokens"], f"the text {text['prompt'][:40]!r}…", "its tokenizer is another one")
    answers, alike, odd = 0, 0, ""
    for number, asked in enumerate(expected["questions"]):
        progress("asking Ollama", number, len(expected["questions"]))
        messages = [{"role": "user", "content": asked["question"]}]
        said, count = server.chat(name, messages, tokens=_TOKENS)
        if count != asked["tokens"]:
            server.unload(name)
            said, count = server.chat(name, messages, tokens=_TOKENS)
        why = "it uses another chat template or system prompt than the model was trained with"
        _require_count(count, asked["tokens"], f"the question {asked['question']!r}", why)
        if begins := asked["begins"].strip():
            answers += 1
            if said.strip().startswith(begins):
                alike += 1
            elif not odd:
                odd = f"to {asked['question']!r} it says {said.strip()[:60]!r} and not {begins!r}"
    if alike < _LEAST_ALIKE * answers:
        raise ExportError(
            f"in Ollama {alike} of {answers} answers begin as they do in llama.cpp here",
            why=odd,
            do="this is not the model that was exported, so it was not registered; try another version of Ollama",
        )
    return {
        "texts": len(expected["texts"]),
        "questions": len(expected["questions"]),
        "answers": answers,
        "alike": alike,
    }


def _require_settings(
    template: str, parameters: Mapping[str, Sequence[Any]], sent: Mapping[str, Any], jinja: str
) -> None:
    # From 0.30 on a server shows the jinja inside the GGUF where it prefers that one.
    allowed = {jinja} | ({sent["template"]} if sent["template"] else {"", "{{ .Prompt }}"})
    if template.strip() not in {text.strip() for text in allowed}:
        raise ExportError(
            "Ollama gave the model another chat template than it was sent",
            why=f"it shows {template[:60]!r}",
            do="it was not registered; try another version of Ollama",
        )
    wanted = {name: value if isinstance(value, list) else [value] for name, value in sent["parameters"].items()}
    for name in sorted(wanted.keys() | parameters.keys()):
        found, expected = list(parameters.get(name, [])), wanted.get(name, [])
        if sorted(map(str, map(_number, found))) != sorted(map(str, map(_number, expected))):
            raise ExportError(
                f"Ollama gave the model other parameters than it was sent: {name}",
                why=f"it shows {found or 'none'}, and {expected or 'none'} was sent",
                do="it was not registered; try another version of Ollama",
            )


def _number(value: Any) -> Any:
    """Servers keep numbers with fractions in 32 bits."""
    return f"{value:.6g}" if isinstance(value, int | float) else value


def _require_count(found: int, expected: int, what: str, why: str) -> None:
    if found != expected:
        raise ExportError(
            f"Ollama reads {what} as {found} tokens, and llama.cpp here as {expected}",
            why=why,
            do="it was not registered; try another version of Ollama",
        )


def _certain(runtime: LlamaCpp, ids: Sequence[int], stops: set[Any]) -> str:
    """The beginning of the likeliest answer, as far as nothing comes close to it."""
    said = ""
    for token, text, lead in runtime.likeliest(ids, _TOKENS):
        if token in stops or not text or lead < _CERTAIN:  # a control token has no text
            break
        said += text
    return said
