"""How text is cut into tokens, under the names it has on both sides: `tokenizer.ggml.pre` of a GGUF file, and the
`normalizer` and `pre_tokenizer` of a tokenizer.json.

A wrong one shows in few lines of text only (digits after two spaces, "½"), so nothing is guessed here: a structure that
is not in the table is refused, unless a person vouches for it with `DLM_PRE_TOKENIZER`. Sources: the expressions of
each name in llama.cpp's src/llama-vocab.cpp, which quotes those of the tokenizer.json, and the model that
conversion/base.py names for it: openai-community/gpt2 ("gpt-2"), HuggingFaceTB/SmolLM-135M ("smollm"),
meta-llama/Meta-Llama-3-8B ("llama-bpe"), databricks/dbrx-base ("dbrx", also Phi-4 and OLMo 2), Qwen/Qwen1.5-7B
("qwen2"), mistralai/Mistral-Nemo-Base-2407 ("tekken") and Xenova/gpt-4o ("gpt-4o", also Phi-4-mini).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlmbuild.errors import BaseModelError
from dlmbuild.io.digest import sha256_json

OVERRIDE = "DLM_PRE_TOKENIZER"
"""The environment variable for pre-tokenizers that the table lacks: fingerprint=name, several with commas between."""

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = rf"{_ENDINGS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_ENDINGS}|{_WORDS}|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_CASED_REST = _REST.replace(r"[\r\n]*|", r"[\r\n/]*|", 1)
_TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_CASED_REST}"
_GPT4O = rf"{_CASED[0]}{_ENDINGS}?|{_CASED[1]}{_ENDINGS}?|\p{{N}}{{1,3}}|{_CASED_REST}"


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def _split(expression: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return _sequence(split, _byte_level(use_regex=False))


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of cutting."""

    json: dict[str, Any]
    """The `pre_tokenizer` of a tokenizer.json."""
    ignore_merges: bool = False
    """Whether a piece that is a token as a whole is taken whole; llama.cpp ties this to the name."""
    normal_form: bool = False
    """Whether the text is brought into Unicode's form C before, which llama.cpp leaves to whoever asks it."""


PRETOKENIZERS = {
    "gpt-2": PreTokenizer(_byte_level(use_regex=True)),
    "smollm": PreTokenizer(_sequence({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True))),
    "llama-bpe": PreTokenizer(_split(_LLAMA3), ignore_merges=True),
    "dbrx": PreTokenizer(_split(_LLAMA3)),
    "qwen2": PreTokenizer(_split(_QWEN2), normal_form=True),
    "tekken": PreTokenizer(_split(_TEKKEN), ignore_merges=True),
    "gpt-4o": PreTokenizer(_split(_GPT4O)),
}

_SPACE, _MARK = " ", "\u2581"
_REPLACE = {"type": "Replace", "pattern": {"String": _SPACE}, "content": _MARK}
_WITH_PREFIX = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _MARK}, _REPLACE]}
_BEFORE = {"type": "Split", "pattern": {"String": _SPACE}, "behavior": "MergedWithPrevious", "invert": False}


def known(name: str) -> PreTokenizer:
    """How llama.cpp cuts under `name`. Raises BaseModelError for a name that is not in the table."""
    if name not in PRETOKENIZERS:
        raise _refused(f"the pre-tokenizer {name!r} is not known", f"known are: {', '.join(PRETOKENIZERS)}")
    return PRETOKENIZERS[name]


def space_in_front(tokenizer_json: Mapping[str, Any]) -> bool | None:
    """Whether a BPE in the manner of SentencePiece, as Llama 2 and Gemma have it, puts a space in front of a text.

    None for any other tokenizer. A space in front of the first text only (Metaspace "first") counts as none: what a
    model is asked begins with a control token, behind which there is none.
    """
    model, normalizer = tokenizer_json.get("model"), tokenizer_json.get("normalizer")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not model.get("byte_fallback"):
        return None
    cut = tokenizer_json.get("pre_tokenizer")
    if cut is None and normalizer == _WITH_PREFIX:
        return True
    if cut in (None, _BEFORE) and normalizer == _REPLACE:
        return False
    schemes = {"always": True, "first": False, "never": False}
    metaspace = {"type": "Metaspace", "replacement": _MARK, "split": False}
    if normalizer is None and isinstance(cut, dict) and metaspace.items() <= cut.items():
        return schemes.get(str(cut.get("prepend_scheme", "always")))
    return None


def pre_name(tokenizer_json: Mapping[str, Any], vouched: str = "") -> str:
    """The name under which llama.cpp tokenises as this tokenizer.json does: "default" in the manner of SentencePiece.

    `vouched` is the value of `DLM_PRE_TOKENIZER`. Raises BaseModelError if the tokenizer is no BPE, or normalises or
    cuts its text in a way that is not in the table.
    """
    if space_in_front(tokenizer_json) is not None:
        return "default"
    model = tokenizer_json.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise _refused(f"the tokenizer is of the kind {kind!r}", "only byte-pair encodings are known")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise _refused(f"the tokenizer's {key} is {model[key]!r}", "llama.cpp does not know it")
    normalizer, ignore_merges = tokenizer_json.get("normalizer"), bool(model.get("ignore_merges", False))
    found = _essence(tokenizer_json.get("pre_tokenizer"))
    for name, one in PRETOKENIZERS.items():
        normal_form = {"type": "NFC"} if one.normal_form else None
        if (_essence(one.json), one.ignore_merges) == (found, ignore_merges) and normalizer in (None, normal_form):
            return name
    if name := vouched_name(tokenizer_json, vouched):
        return name
    advice = override_advice(tokenizer_json)
    if normalizer is not None:
        raise _refused(f"the tokenizer normalises its text: {normalizer!r}", "llama.cpp would not", advice)
    raise _refused(
        f"the tokenizer cuts its text by {tokenizer_json.get('pre_tokenizer')!r}, ignore_merges {ignore_merges}",
        f"known are: {', '.join(PRETOKENIZERS)}",
        advice,
    )


def vouched_name(tokenizer_json: Mapping[str, Any], vouched: str) -> str:
    """The name that a person vouches for, "" if nobody does. Raises BaseModelError for a badly written `vouched`."""
    return _vouched(vouched).get(_fingerprint(tokenizer_json), "")


def override_advice(tokenizer_json: Mapping[str, Any]) -> str:
    """What a person can do who knows how llama.cpp calls this pre-tokenizer."""
    return (
        f"or set {OVERRIDE}={_fingerprint(tokenizer_json)}=<name> if you know the name under which llama.cpp cuts "
        "alike (tokenizer.ggml.pre of a GGUF of this model); an export is compared token by token all the same"
    )


def _fingerprint(tokenizer_json: Mapping[str, Any]) -> str:
    model = tokenizer_json.get("model")
    ignore_merges = bool(model.get("ignore_merges")) if isinstance(model, dict) else False
    found = [tokenizer_json.get("normalizer"), _essence(tokenizer_json.get("pre_tokenizer")), ignore_merges]
    return sha256_json(found)[:12]


def _vouched(text: str) -> dict[str, str]:
    names = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        match = re.fullmatch(r"([0-9a-f]{12})=([a-z0-9][a-z0-9.-]*)", part)
        if match is None:
            raise BaseModelError(
                f"{OVERRIDE} holds {part!r}", why="it is written fingerprint=name", do=f"mend or unset {OVERRIDE}"
            )
        names[match[1]] = match[2]
    return names


def _refused(what: str, why: str, advice: str = "") -> BaseModelError:
    why += "; a wrong guess would cut some texts otherwise than the model was taught"
    return BaseModelError(what, why=why, do=", ".join(filter(None, ("take another base", advice))))


def _essence(step: Any) -> Any:
    """A step without what has no influence on the tokens, and with its defaults written out."""
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Sequence":
        steps = step.get("pretokenizers")
        return [_essence(one) for one in steps] if isinstance(steps, list) else steps
    if step.get("type") == "ByteLevel":
        return {"type": "ByteLevel", "prefix": step.get("add_prefix_space"), "regex": step.get("use_regex", True)}
    if step.get("type") == "Split" and (step.get("behavior"), step.get("invert")) == ("Removed", True):
        # Nothing is lost where the expression matches every character, as those in the table do.
        return {**step, "behavior": "Isolated", "invert": False}
    return step
