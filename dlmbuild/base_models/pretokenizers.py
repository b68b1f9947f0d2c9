"""How text is cut before byte-pair merging, under the two names it has: `tokenizer.ggml.pre` of a GGUF file and the
`pre_tokenizer` of a tokenizer.json.

A wrong one shows in few lines of text only (digits after two spaces, "½"), so nothing is guessed here: a structure that
is not in the table is refused. Sources: the expressions of each name in llama.cpp's src/llama-vocab.cpp, and the
tokenizer.json of the model that conversion/base.py names for it: openai-community/gpt2 ("gpt-2"),
HuggingFaceTB/SmolLM-135M ("smollm") and meta-llama/Meta-Llama-3-8B ("llama-bpe").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlmbuild.errors import BaseModelError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of cutting."""

    json: dict[str, Any]
    ignore_merges: bool = False
    """Whether a piece that is a token as a whole is taken whole; llama.cpp ties this to the name."""


PRETOKENIZERS = {
    "gpt-2": PreTokenizer(_byte_level(use_regex=True)),
    "smollm": PreTokenizer(_sequence({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True))),
    "llama-bpe": PreTokenizer(
        _sequence(
            {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False},
            _byte_level(use_regex=False),
        ),
        ignore_merges=True,
    ),
}


def pre_tokenizer_json(name: str) -> dict[str, Any]:
    """The `pre_tokenizer` of a tokenizer.json that cuts as llama.cpp does under `name`.

    Raises BaseModelError for a name that is not in the table.
    """
    return _known(name).json


def ignores_merges(name: str) -> bool:
    """The `model.ignore_merges` that belongs to `name`."""
    return _known(name).ignore_merges


def pre_name(tokenizer_json: dict[str, Any]) -> str:
    """The name under which llama.cpp tokenises as this tokenizer.json does.

    Raises BaseModelError if it is no byte-level BPE, normalises its text, or cuts in a way that is not in the table.
    """
    model = tokenizer_json.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise _refused(f"the tokenizer is of the kind {kind!r}", "only byte-level BPE is known")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise _refused(f"the tokenizer's {key} is {model[key]!r}", "llama.cpp does not know it")
    if tokenizer_json.get("normalizer") is not None:
        raise _refused(f"the tokenizer normalises its text: {tokenizer_json['normalizer']!r}", "llama.cpp would not")
    found = _essence(tokenizer_json.get("pre_tokenizer"))
    ignore_merges = bool(model.get("ignore_merges", False))
    for name, known in PRETOKENIZERS.items():
        if _essence(known.json) == found and known.ignore_merges == ignore_merges:
            return name
    raise _refused(
        f"the tokenizer cuts its text by {tokenizer_json.get('pre_tokenizer')!r}, ignore_merges {ignore_merges}",
        f"known are: {', '.join(PRETOKENIZERS)}",
    )


def _known(name: str) -> PreTokenizer:
    if name not in PRETOKENIZERS:
        raise _refused(f"the pre-tokenizer {name!r} is not known", f"known are: {', '.join(PRETOKENIZERS)}")
    return PRETOKENIZERS[name]


def _refused(what: str, why: str) -> BaseModelError:
    return BaseModelError(what, why=f"{why}; a wrong guess would cut some texts otherwise than the model was taught")


def _essence(step: Any) -> Any:
    """A step without what has no influence on the tokens, and with its defaults written out."""
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Sequence":
        steps = step.get("pretokenizers")
        return [_essence(one) for one in steps] if isinstance(steps, list) else steps
    if step.get("type") == "ByteLevel":
        return {"type": "ByteLevel", "prefix": step.get("add_prefix_space"), "regex": step.get("use_regex", True)}
    return step
