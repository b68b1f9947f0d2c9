"""The tokenizer of a checkpoint as metadata of a GGUF file.

Everything comes from tokenizer.json, which is what a model is trained with here; a tokenizer.model is not read. The
scores that llama.cpp wants of a tokenizer in the manner of SentencePiece are the order of its merges.

Sources: `get_vocab_base` in llama.cpp's conversion/base.py and `SpecialVocab` in gguf-py/gguf/vocab.py for the entries;
`PreTrainedTokenizerBase` of transformers for where a checkpoint keeps its chat template and special tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlmbuild.base_models.pretokenizers import pre_name, space_in_front
from dlmbuild.data.control import is_control
from dlmbuild.data.template import template_source
from dlmbuild.errors import ExportError, Where
from dlmbuild.io.gguf_file import entry
from dlmbuild.io.json_file import read_json_object

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6  # LLAMA_TOKEN_TYPE_*
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
_MARK = "\u2581"
_UNREACHED = -1e6
"""The score of tokens that no merge makes: below that of any merge."""
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def vocabulary_entries(checkpoint: Path, vocab: int, pre: str = "") -> list[bytes]:
    """Metadata entries for the tokenizer of the checkpoint folder, for an embedding of `vocab` rows.

    `pre` is the name of its pre-tokenizer where that is known already. Raises ExportError for a tokenizer that is
    damaged or does what llama.cpp cannot, BaseModelError for one that cuts its text in an unknown way.
    """
    path = checkpoint / "tokenizer.json"
    where = Where(str(path))
    tokenizer = read_json_object(path, ExportError)
    config = read_json_object(checkpoint / "tokenizer_config.json", ExportError)
    model_config = read_json_object(checkpoint / "config.json", ExportError)
    pre = pre or pre_name(tokenizer)
    prefix = space_in_front(tokenizer)
    tokens, types = _tokens(tokenizer, vocab, where, bytes_as_tokens=prefix is not None)
    ids = {text: i for i, text in enumerate(tokens)}
    merges = _merges(tokenizer, ids, where)
    adds_bos, adds_eos = _adds(tokenizer, config, where)
    entries = [
        entry("tokenizer.ggml.add_space_prefix", bool(prefix)),
        entry("tokenizer.ggml.model", "gpt2" if prefix is None else "llama"),
        entry("tokenizer.ggml.pre", pre),
        entry("tokenizer.ggml.tokens", tokens),
        entry("tokenizer.ggml.token_type", types),
    ]
    if prefix is None:
        entries.append(entry("tokenizer.ggml.merges", [" ".join(merge) for merge in merges]))
    else:
        entries.append(entry("tokenizer.ggml.scores", _scores(tokens, merges)))
    for role, gguf_role in _ROLES.items():
        token = _special(role, config, model_config, ids, checkpoint)
        if token is not None:
            entries.append(entry(f"tokenizer.ggml.{gguf_role}_token_id", token))
    entries.append(entry("tokenizer.ggml.add_bos_token", adds_bos))
    if adds_eos:
        entries.append(entry("tokenizer.ggml.add_eos_token", True))
    if template := template_source(checkpoint, config):
        entries.append(entry("tokenizer.chat_template", template))
    return entries


def general_name(checkpoint: Path, name: str) -> str:
    """`general.name` for a model: `name`, marked where llama.cpp is to strip the space behind control tokens.

    It does that for a model with the letters phi-3 in its name alone, and such a model must have certain tokens
    (`llama_vocab::impl::load` in src/llama-vocab.cpp).
    """
    added = read_json_object(checkpoint / "tokenizer.json", ExportError).get("added_tokens")
    listed = [one for one in added if isinstance(one, dict)] if isinstance(added, list) else []
    stripped = any(one.get("rstrip") and one.get("special") for one in listed)
    of_phi3 = {one["content"] for one in listed if isinstance(one.get("content"), str)} >= {
        "</s>",
        "<s>",
        "<unk>",
        "<|endoftext|>",
    }
    return f"{name} (phi-3)" if stripped and of_phi3 and "phi-3" not in name.lower() else name


def _tokens(
    tokenizer: dict[str, Any], vocab: int, where: Where, *, bytes_as_tokens: bool
) -> tuple[list[str], list[int]]:
    by_id: dict[int, tuple[str, int]] = {}
    listed = tokenizer["model"].get("vocab")
    if not isinstance(listed, dict):
        raise ExportError("the tokenizer has no vocabulary", where=where)
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list):
        raise ExportError("the tokenizer's added tokens are no list", where=where)
    if bytes_as_tokens and (missing := sorted(_BYTES - listed.keys())):
        raise ExportError(f"the vocabulary lacks {missing[0]!r}", where=where, why="llama.cpp needs all 256 bytes")
    spelled = _BYTES if bytes_as_tokens else set()
    pairs: list[tuple[Any, Any, int]] = [
        (text, token, _BYTE if text in spelled else _NORMAL) for text, token in listed.items()
    ]
    for one in added:
        if not isinstance(one, dict):
            raise ExportError(f"the added token {one!r} is damaged", where=where)
        text = one.get("content")
        control = isinstance(text, str) and is_control(text, bool(one.get("special")))
        if not control and bytes_as_tokens and isinstance(text, str) and _MARK in text and text in listed:
            continue  # spaces: merges make them, while llama.cpp would look for the mark in the text
        pairs.append((text, one.get("id"), _CONTROL if control else _USER_DEFINED))
    for text, token, kind in pairs:
        if type(token) is not int or not 0 <= token < vocab or not isinstance(text, str) or not text:
            raise ExportError(
                f"the token {text!r} has the id {token!r}", where=where, why=f"the embedding has {vocab} rows"
            )
        if by_id.get(token, (text, 0))[0] != text:
            raise ExportError(f"the tokens {text!r} and {by_id[token][0]!r} share the id {token}", where=where)
        by_id[token] = text, kind
    if len({text for text, _ in by_id.values()}) != len(by_id):
        raise ExportError("a token of the vocabulary was added a second time with another id", where=where)
    ordered = [by_id.get(token, (f"[PAD{token}]", _UNUSED)) for token in range(vocab)]
    return [text for text, _ in ordered], [kind for _, kind in ordered]


def _merges(tokenizer: dict[str, Any], ids: dict[str, int], where: Where) -> list[tuple[str, str]]:
    listed = tokenizer["model"].get("merges")
    if not isinstance(listed, list):
        raise ExportError("the tokenizer has no merges", where=where)
    merges = []
    for merge in listed:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(_is_token(part, ids) for part in parts):
            raise ExportError(f"the merge {merge!r} does not join two tokens", where=where)
        merges.append((parts[0], parts[1]))
    return merges


def _scores(tokens: list[str], merges: list[tuple[str, str]]) -> list[float]:
    """llama.cpp joins the two neighbours whose sum scores best: what is merged earlier scores better."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks[token]) if token in ranks else _UNREACHED for token in tokens]


def _is_token(part: Any, ids: dict[str, int]) -> bool:
    return isinstance(part, str) and part in ids and " " not in part


def _special(
    role: str, config: dict[str, Any], model_config: dict[str, Any], ids: dict[str, int], checkpoint: Path
) -> int | None:
    value = config.get(f"{role}_token")
    text = value.get("content") if isinstance(value, dict) else value
    if text is None:
        token = model_config.get(f"{role}_token_id")
        return token if type(token) is int and 0 <= token < len(ids) else None
    if not isinstance(text, str) or text not in ids:
        where = Where(str(checkpoint / "tokenizer_config.json"))
        raise ExportError(f"the {role} token {text!r} is not in the vocabulary", where=where)
    return ids[text]


def _adds(tokenizer: dict[str, Any], config: dict[str, Any], where: Where) -> tuple[bool, bool]:
    """Whether texts get bos in front and eos behind: what the post-processor does, or else the configuration says."""
    post = tokenizer.get("post_processor")
    steps = post.get("processors") if isinstance(post, dict) and post.get("type") == "Sequence" else [post]
    if not isinstance(steps, list):
        raise ExportError("the tokenizer's post-processor is damaged", where=where)
    templates = [step for step in steps if isinstance(step, dict) and step.get("type") == "TemplateProcessing"]
    others = {str(step.get("type")) for step in steps if isinstance(step, dict)} - {"TemplateProcessing", "ByteLevel"}
    if others or len(templates) > 1:
        raise ExportError(f"the tokenizer's post-processor is {post!r}", where=where, why="llama.cpp cannot do that")
    if not templates:
        by_hand = config.get("add_bos_token") is True, config.get("add_eos_token") is True
        return by_hand if post is None else (False, False)
    single = templates[0].get("single")
    texts = [_step_text(step, config) for step in single] if isinstance(single, list) else []
    if texts not in (["A"], ["bos", "A"], ["A", "eos"], ["bos", "A", "eos"]):
        raise ExportError(f"the tokenizer wraps texts in {single!r}", where=where, why="llama.cpp has bos and eos only")
    return texts[0] == "bos", texts[-1] == "eos"


def _step_text(step: Any, config: dict[str, Any]) -> str:
    if isinstance(step, dict) and isinstance(step.get("Sequence"), dict):
        return str(step["Sequence"].get("id"))
    special = step.get("SpecialToken") if isinstance(step, dict) else None
    text = special.get("id") if isinstance(special, dict) else None
    for role in ("bos", "eos"):
        value = config.get(f"{role}_token")
        if text is not None and text == (value.get("content") if isinstance(value, dict) else value):
            return role
    return f"unknown {text!r}"
