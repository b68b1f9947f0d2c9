from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import BaseModelError
from tests.tiny import SPECIALS

ENDOFTEXT, START, END = range(3)


def add_special(base: Path, *tokens: str) -> None:
    """Give the tokenizer more special tokens."""
    path = base / "tokenizer.json"
    data = json.loads(path.read_text())
    for text in tokens:
        number = len(data["model"]["vocab"])
        data["model"]["vocab"][text] = number
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        data["added_tokens"].append({"id": number, "content": text, "special": True, **flags})
    path.write_text(json.dumps(data))


def test_special_tokens_are_read_and_none_are_added(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>user\nWho?<|im_end|>", control=True)
    assert ids[0] == START and ids[-1] == END and ids.count(START) == 1
    assert tokenizer.decode(ids) == "user\nWho?"
    assert tokenizer.decode(ids, special=True) == "<|im_start|>user\nWho?<|im_end|>"
    assert tokenizer.encode("") == []


def test_ends(tokenizer: Tokenizer) -> None:
    assert SPECIALS == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert tokenizer.eos_id == END
    assert tokenizer.turn_end_ids == (END,)


def test_padding_is_never_what_ends_a_text_or_a_turn(tokenizer: Tokenizer) -> None:
    assert tokenizer.pad_id == ENDOFTEXT  # the configuration names <|im_end|>, which is also the end of a turn


def test_padding_that_is_harmless_is_taken_as_named(base: Path, configure: Callable[..., None]) -> None:
    configure(pad_token="<|im_start|>")
    assert Tokenizer.from_base(base).pad_id == START


@pytest.mark.parametrize("named", [None, "<|no such token|>", "", {"content": "<|im_end|>"}])
def test_padding_that_is_not_or_wrongly_named(base: Path, configure: Callable[..., None], named: object) -> None:
    configure(pad_token=named)
    assert Tokenizer.from_base(base).pad_id == ENDOFTEXT


def test_a_token_made_for_padding_is_preferred(base: Path) -> None:
    add_special(base, "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>")
    before = len(json.loads((base / "tokenizer.json").read_text())["model"]["vocab"])
    found = Tokenizer.from_base(base)
    assert found.decode([found.pad_id], special=True) == "<|finetune_right_pad_id|>"
    assert found.pad_id < before  # never a grown vocabulary


def test_a_reserved_token_pads_where_nothing_better_is(base: Path, configure: Callable[..., None]) -> None:
    add_special(base, "<|reserved_7|>")
    configure(eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    found = Tokenizer.from_base(base)
    assert found.decode([found.pad_id], special=True) == "<|reserved_7|>"
    assert found.pad_id not in {found.eos_id, *found.turn_end_ids}


def test_no_token_to_pad_with(base: Path, configure: Callable[..., None]) -> None:
    configure(eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}<|im_end|><|im_start|>{% endfor %}"
    )
    with pytest.raises(BaseModelError, match="has no token left to pad with"):
        Tokenizer.from_base(base)


@pytest.mark.parametrize("eos", [None, "", "<|no such token|>", 7])
def test_no_end_of_text(base: Path, configure: Callable[..., None], eos: object) -> None:
    configure(eos_token=eos)
    with pytest.raises(BaseModelError, match="names no end-of-text token"):
        Tokenizer.from_base(base)


def test_settings_for_batches_never_cut_or_fill(base: Path) -> None:
    path = base / "tokenizer.json"
    data = json.loads(path.read_text())
    data["truncation"] = {"max_length": 4, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    pad = {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    data["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, **pad}
    path.write_text(json.dumps(data))
    text = "Every evening the keeper climbs the steps."
    found = Tokenizer.from_base(base)
    assert found.decode(found.encode(text), special=True) == text


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("data", [None, b"", b"{}", b"[]", b"{", b"\xff\xfe\x00", b'{"model": 7}'])
def test_a_damaged_file(base: Path, name: str, data: bytes | None) -> None:
    if data is None:
        (base / name).unlink()
    else:
        (base / name).write_bytes(data)
    with pytest.raises(BaseModelError):
        Tokenizer.from_base(base)
