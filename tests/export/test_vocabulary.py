"""Tokenizers in the manner of SentencePiece as metadata; byte-level ones are seen to in test_base_gguf."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.errors import ExportError
from dlmbuild.export.vocabulary import general_name, vocabulary_entries
from dlmbuild.io.gguf_file import read_header, write_gguf
from tests.families import write_tokenizer
from tests.tiny import write_json

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    size = write_tokenizer(tmp_path / "base", "prefix")
    write_json(tmp_path / "base" / "config.json", {"vocab_size": size})
    return tmp_path / "base"


def change(base: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((base / "tokenizer.json").read_text())
    edit(data)
    write_json(base / "tokenizer.json", data)


def metadata(base: Path) -> dict[str, Any]:
    size = json.loads((base / "config.json").read_text())["vocab_size"]
    write_gguf(base / "v.gguf", vocabulary_entries(base, size), [], lambda planned: [])
    return read_header(base / "v.gguf").metadata


def test_scores_are_the_order_of_merges(base: Path) -> None:
    found = metadata(base)
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("llama", "default")
    assert found["tokenizer.ggml.add_space_prefix"] is True and "tokenizer.ggml.merges" not in found
    tokens, scores, types = (found[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    merges = json.loads((base / "tokenizer.json").read_text())["model"]["merges"]
    first = tokens.index("".join(merges[0]))
    assert scores[first] == 0 and types[first] == NORMAL
    later = tokens.index("".join(merges[-1]))
    assert -len(merges) < scores[later] < -1
    assert (scores[tokens.index("<0x0A>")], types[tokens.index("<0x0A>")]) == (-1e6, BYTE)
    assert types[tokens.index("<|im_end|>")] == CONTROL


def test_spaces_that_were_added_as_a_token_stay_a_piece(base: Path) -> None:
    """Gemma lists runs of spaces as added tokens; merges make them, and llama.cpp shows a piece as spaces."""

    def edit(data: dict[str, Any]) -> None:
        vocab = data["model"]["vocab"]
        for text in ("\u2581\u2581", "the"):
            vocab.setdefault(text, len(vocab))
            data["added_tokens"].append({"id": vocab[text], "content": text, "special": False, "normalized": False})
        write_json(base / "config.json", {"vocab_size": len(vocab)})

    change(base, edit)
    found = metadata(base)
    types = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
    assert (types["\u2581\u2581"], types["the"]) == (NORMAL, USER_DEFINED)


def test_all_bytes_are_needed(base: Path) -> None:
    change(base, lambda data: data["model"]["vocab"].pop("<0x7F>"))
    with pytest.raises(ExportError, match="lacks '<0x7F>'"):
        metadata(base)


def test_the_name_by_which_llama_cpp_strips_spaces(base: Path) -> None:
    assert general_name(base, "mine") == "mine"
    change(base, lambda data: data["added_tokens"][2].update(rstrip=True))
    assert general_name(base, "mine") == "mine (phi-3)"
    assert general_name(base, "Phi-3-mini") == "Phi-3-mini"
    change(
        base, lambda data: data["added_tokens"].remove(next(t for t in data["added_tokens"] if t["content"] == "<s>"))
    )
    assert general_name(base, "mine") == "mine"  # llama.cpp would look for tokens that are not there


def test_an_added_token_that_is_no_text_is_none_of_phi_3(base: Path) -> None:
    change(base, lambda data: data.update(added_tokens=[{"content": {"a": 1}, "rstrip": True, "special": True}]))
    assert general_name(base, "harbour") == "harbour"
