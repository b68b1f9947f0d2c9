from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from dlmbuild.base_models.pretokenizers import PRETOKENIZERS, known, pre_name, space_in_front
from dlmbuild.errors import BaseModelError

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, REPLACE]}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "split": False}


def tokenizer_json(name: str) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {}, "merges": [], "ignore_merges": known(name).ignore_merges}
    normalizer = {"type": "NFC"} if known(name).normal_form else None
    return {"normalizer": normalizer, "pre_tokenizer": known(name).json, "model": model}


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_every_name_is_found_again(name: str) -> None:
    assert pre_name(tokenizer_json(name)) == name


def test_defaults_and_offsets_do_not_matter() -> None:
    data = tokenizer_json("smollm")
    data["pre_tokenizer"]["pretokenizers"][1] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    del data["model"]["ignore_merges"]
    assert pre_name(data) == "smollm"


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("smollm", "a  23 ½", ["a", "ĠĠ", "2", "3", "Ġ", "Â½"]),
        ("gpt-2", "a  23 ½", ["a", "Ġ", "Ġ23", "ĠÂ½"]),
        ("qwen2", "a  23 I'LL", ["a", "Ġ", "Ġ", "2", "3", "ĠI", "'LL"]),
        ("tekken", "aB 23/\n I'm", ["a", "B", "Ġ", "2", "3", "/Ċ", "ĠI", "'m"]),
        ("gpt-4o", "aB 2345/\n I'm", ["a", "B", "Ġ", "234", "5", "/Ċ", "ĠI'm"]),
        ("dbrx", "a 2345", ["a", "Ġ", "234", "5"]),
        ("llama-bpe", "a  2345 I'LL", ["a", "Ġ", "Ġ", "234", "5", "ĠI", "'LL"]),
    ],
)
def test_the_structures_cut_as_llama_cpp_does(name: str, text: str, pieces: list[str]) -> None:
    import json

    tokenizer = Tokenizer(models.BPE())
    data = json.loads(tokenizer.to_str())
    data["pre_tokenizer"] = known(name).json
    cutter = Tokenizer.from_str(json.dumps(data)).pre_tokenizer
    assert isinstance(cutter, pre_tokenizers.PreTokenizer)
    assert [piece for piece, _ in cutter.pre_tokenize_str(text)] == pieces


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("pre_tokenizer",), None, "cuts its text by None"),
        (("pre_tokenizer",), {"type": "Metaspace"}, "Metaspace"),
        (("pre_tokenizer", "pretokenizers"), 3, "cuts its text"),
        (("normalizer",), {"type": "NFC"}, "normalises its text"),
        (("model", "type"), "Unigram", "kind 'Unigram'"),
        (("model", "byte_fallback"), True, "byte_fallback is True"),
        (("model", "dropout"), 0.1, "dropout is 0.1"),
        (("model", "ignore_merges"), True, "ignore_merges True"),
        (("model",), [], "kind"),
    ],
)
def test_what_is_not_known_is_refused(path: tuple[str, ...], value: Any, what: str) -> None:
    import copy

    data = copy.deepcopy(tokenizer_json("smollm"))
    at: Any = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(BaseModelError, match=what):
        pre_name(data)
    with pytest.raises(BaseModelError, match="known are: gpt-2, smollm, llama-bpe, dbrx"):
        known("viking")


def test_a_split_may_be_written_as_the_removal_of_what_lies_between() -> None:
    data = tokenizer_json("gpt-4o")
    data["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    assert pre_name(data) == "gpt-4o"


@pytest.mark.parametrize(
    ("normalizer", "cut", "in_front"),
    [
        (PREPEND, None, True),
        (REPLACE, SPLIT, False),
        (REPLACE, None, False),
        (None, {**METASPACE, "prepend_scheme": "always"}, True),
        (None, {**METASPACE, "prepend_scheme": "first"}, False),
        (None, {**METASPACE, "prepend_scheme": "never"}, False),
        (None, {**METASPACE, "split": True}, None),
        (None, {**METASPACE, "prepend_scheme": "sometimes"}, None),
        (PREPEND, SPLIT, None),
        ({"type": "NFKC"}, None, None),
    ],
)
def test_tokenizers_in_the_manner_of_sentencepiece(normalizer: Any, cut: Any, in_front: bool | None) -> None:
    model = {"type": "BPE", "vocab": {}, "merges": [], "byte_fallback": True}
    data = {"normalizer": normalizer, "pre_tokenizer": cut, "model": model}
    assert space_in_front(data) is in_front
    if in_front is None:
        with pytest.raises(BaseModelError, match="byte_fallback is True"):
            pre_name(data)
    else:
        assert pre_name(data) == "default"
    assert space_in_front({**data, "model": {**model, "byte_fallback": False}}) is None
