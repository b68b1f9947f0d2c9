"""A checkpoint from a GGUF file: exactly the numbers that llama.cpp computes with, as float32, and its own tokenizer.

transformers can read a GGUF, too, but cannot save the result, records the quantisation and loses part of the
pre-tokenizer; none of that happens here. Needs numpy and gguf, neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.base_models.decoder import Decoder, Weight, compare_tensors, to_hf_rows
from dlmbuild.base_models.llama import llama_of_header
from dlmbuild.base_models.pretokenizers import known
from dlmbuild.errors import BaseModelError, Where
from dlmbuild.io.atomic import write_atomic
from dlmbuild.io.digest import canonical_json, readable_json
from dlmbuild.io.gguf_file import TensorInfo, read_header, row_bytes
from dlmbuild.io.safetensors_file import write_safetensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SLAB_NUMBERS = 1 << 22
"""Numbers dequantised at a time: 16 MB of float32, so a tensor's size does not matter."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # LLAMA_TOKEN_TYPE_*
_SPECIALS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def checkpoint_from_gguf(gguf: Path, out: Path) -> None:
    """Write the model in `gguf` as a Hugging Face checkpoint into the folder `out`.

    config.json, model.safetensors (float32), tokenizer.json, tokenizer_config.json, generation_config.json and, if the
    file has a chat template, chat_template.jinja. The bytes depend on the file's content alone. Raises BaseModelError
    for a damaged file and for anything but a Llama with a byte-level BPE tokenizer.
    """
    import numpy as np

    where = Where(str(gguf))
    header = read_header(gguf, BaseModelError)
    model = llama_of_header(header, where, BaseModelError)
    tensors = {tensor.hf: tensor for tensor in model.weights()}
    compare_tensors({tensor.gguf: tensor.shape for tensor in tensors.values()}, header.tensors, where, BaseModelError)
    for tensor in tensors.values():
        _check_type(tensor, header.tensors[tensor.gguf], where)
    vocabulary = _Vocabulary(header.metadata, model, where)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "config.json", readable_json(_config(model, vocabulary)))
    write_atomic(out / "generation_config.json", readable_json(vocabulary.ids_of_specials("unk")))
    write_atomic(out / "tokenizer_config.json", readable_json(vocabulary.tokenizer_config(model.context)))
    write_atomic(out / "tokenizer.json", canonical_json(vocabulary.tokenizer_json()))
    template = header.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        write_atomic(out / "chat_template.jinja", template.encode())

    def data(name: str) -> Iterator[bytes]:
        tensor = tensors[name]
        step = max(1, SLAB_NUMBERS // tensor.shape[-1] // model.head_dim) * model.head_dim  # whole heads
        rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
        for start in range(0, rows, step):
            slab = read_rows(gguf, header.tensors[tensor.gguf], start, min(rows, start + step))
            if not np.isfinite(slab).all():
                raise BaseModelError(f"the tensor {tensor.gguf} holds a number that is not finite", where=where)
            slab = to_hf_rows(slab, model.head_dim) if tensor.permuted else slab
            yield slab.astype("<f4", copy=False).tobytes()

    write_safetensors(out / "model.safetensors", {name: tensor.shape for name, tensor in tensors.items()}, data)


def read_rows(gguf: Path, info: TensorInfo, start: int, stop: int) -> NDArray[np.float32]:
    """Rows of a tensor in a GGUF file as float32, the exact values of their type; one row for one dimension."""
    import numpy as np

    columns = info.shape[-1]
    width = row_bytes(info.type, columns)
    shape = (stop - start, width)
    stored = np.memmap(gguf, dtype=np.uint8, mode="r", offset=info.offset + start * width, shape=shape)
    if info.type in ("F32", "F16"):
        numbers = np.asarray(stored).view(np.dtype("<f4" if info.type == "F32" else "<f2"))
        return numbers.astype(np.float32, copy=False)
    import gguf as package

    values = package.dequantize(np.asarray(stored), package.GGMLQuantizationType[info.type])
    return np.asarray(values, dtype=np.float32).reshape(stop - start, columns)


def _check_type(tensor: Weight, info: TensorInfo, where: Where) -> None:
    import gguf as package

    readable = {"F32", "F16"} | {kind.name for kind in package.quants._type_traits}
    if info.type not in readable:
        raise BaseModelError(f"the tensor {tensor.gguf} is stored as {info.type}", where=where, why="it cannot be read")


def _config(model: Decoder, vocabulary: _Vocabulary) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": model.hidden,
        "initializer_range": 0.02,
        "intermediate_size": model.feed_forward,
        "max_position_embeddings": model.context,
        "mlp_bias": False,
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "num_key_value_heads": model.kv_heads,
        "rms_norm_eps": _shortest(model.rms_eps),
        "rope_parameters": {"rope_theta": _shortest(model.rope_theta), "rope_type": "default"},
        "tie_word_embeddings": model.tied,
        "use_cache": True,
        "vocab_size": model.vocab,
        **({"head_dim": model.head_dim} if model.explicit_head_dim else {}),
        **vocabulary.ids_of_specials("unk"),
    }


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, which a GGUF gives back as 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


class _Vocabulary:
    """What a GGUF says of its tokenizer, checked."""

    def __init__(self, metadata: dict[str, Any], model: Decoder, where: Where) -> None:
        self.where = where
        self.metadata = metadata
        kind = metadata.get("tokenizer.ggml.model")
        if kind != "gpt2":
            raise self.refused(f"the tokenizer is of the kind {kind!r}", "only 'gpt2' (byte-level BPE) is converted")
        self.pre = str(metadata.get("tokenizer.ggml.pre"))
        self.cuts = known(self.pre)
        self.tokens = self.texts("tokenizer.ggml.tokens")
        self.merges = [self.merge(text) for text in self.texts("tokenizer.ggml.merges")]
        self.types = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(self.tokens))
        if len(self.tokens) != model.vocab or not isinstance(self.types, list) or len(self.types) != model.vocab:
            raise self.refused(f"it lists {len(self.tokens)} tokens", f"the embedding has {model.vocab} rows")
        if unknown := sorted(set(self.types) - {_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED}, key=str):
            raise self.refused(f"a token has the type {unknown[0]!r}", "byte-level BPE has no such tokens")
        self.ids = {text: i for i, text in enumerate(self.tokens) if self.types[i] != _UNUSED}
        if len(self.ids) + self.types.count(_UNUSED) != len(self.tokens):
            raise self.refused("a token is listed twice", "tokens and ids must name each other")
        for left, right in self.merges:
            if left not in self.ids or right not in self.ids or left + right not in self.ids:
                raise self.refused(f"the merge {left!r} {right!r} is of unknown tokens", "the file is damaged")

    def refused(self, what: str, why: str) -> BaseModelError:
        return BaseModelError(what, where=self.where, why=why)

    def texts(self, key: str) -> list[str]:
        value = self.metadata.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.refused(f"the file has no {key}", "a list of texts is needed")
        return value

    def merge(self, text: str) -> tuple[str, str]:
        parts = text.split(" ")
        if len(parts) != 2 or not all(parts):
            raise self.refused(f"the merge {text!r} is not two tokens", "the file is damaged")
        return parts[0], parts[1]

    def special(self, role: str) -> int | None:
        token = self.metadata.get(f"tokenizer.ggml.{_SPECIALS[role]}_token_id")
        if token is None:
            return None
        if type(token) is not int or not 0 <= token < len(self.tokens) or self.types[token] == _UNUSED:
            raise self.refused(f"the {role} token has the id {token!r}", f"there are {len(self.tokens)} tokens")
        return token

    def ids_of_specials(self, *without: str) -> dict[str, Any]:
        found = {f"{role}_token_id": self.special(role) for role in _SPECIALS if role not in without}
        return {key: token for key, token in found.items() if token is not None}

    def tokenizer_json(self) -> dict[str, Any]:
        added = [
            {
                "id": i,
                "content": self.tokens[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind == _CONTROL,
            }
            for i, kind in enumerate(self.types)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": self.cuts.json,
            "post_processor": self.post_processor(),
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": self.cuts.ignore_merges,
                "vocab": self.ids,
                "merges": [list(merge) for merge in self.merges],
            },
        }

    def post_processor(self) -> dict[str, Any]:
        """Says outright whether a text starts with bos, so that transformers adds nothing of its own."""
        # Where the entry is missing, llama.cpp adds bos for llama-bpe alone (src/llama-vocab.cpp).
        if self.metadata.get("tokenizer.ggml.add_eos_token") is True:
            raise self.refused("the tokenizer ends every text with eos", "a chat model's does not")
        if not self.metadata.get("tokenizer.ggml.add_bos_token", self.pre == "llama-bpe"):
            return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        bos = self.special("bos")
        if bos is None:
            raise self.refused("the tokenizer starts every text with bos", "and the file names no bos token")
        text = self.tokens[bos]
        first: dict[str, Any] = {"SpecialToken": {"id": text, "type_id": 0}}
        single: list[dict[str, Any]] = [first, {"Sequence": {"id": "A", "type_id": 0}}]
        second = {"SpecialToken": {"id": text, "type_id": 1}}
        return {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, second, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}},
        }

    def tokenizer_config(self, context: int) -> dict[str, Any]:
        found = {f"{role}_token": self.special(role) for role in _SPECIALS}
        return {
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": context,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{key: self.tokens[token] for key, token in found.items() if token is not None},
        }
