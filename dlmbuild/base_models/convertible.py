"""Whether and how a base becomes a GGUF: asked when it is fetched, long before anything is trained on it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dlmbuild.base_models import official
from dlmbuild.base_models.decoder import Decoder, compare_tensors
from dlmbuild.base_models.families import FAMILIES, decoder_of_config
from dlmbuild.base_models.pretokenizers import override_advice, pre_name, space_in_front, vouched_name
from dlmbuild.errors import BaseModelError, DlmError, MissingExtra, Where
from dlmbuild.io.atomic import staging_folder
from dlmbuild.io.digest import JSON
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.progress import Progress
from dlmbuild.io.safetensors_file import StoredTensor, read_checkpoint

_BUFFER = ".rotary_emb.inv_freq"
"""Old checkpoints hold this, which is computed from the configuration."""


def conversion_facts(checkpoint: Path, vouched: str, progress: Progress) -> dict[str, JSON]:
    """What base.json says of the way to a GGUF: what `adaptable` finds, and the converter.

    `converter` is None for our own. Raises BaseModelError for a base that cannot be converted.
    """
    found = adaptable(checkpoint, vouched)
    if is_known(checkpoint):
        return {**found, "converter": None}
    tokenizer = read_json_object(checkpoint / "tokenizer.json", BaseModelError)
    progress("asking llama.cpp's converter about the base")
    with staging_folder(checkpoint.parent) as staging:
        words = ("--vocab-only", "--outfile", str(staging / "vocabulary.gguf"), "--outtype", "f16", str(checkpoint))
        pre, advice = str(found["pre_tokenizer"]), override_advice(tokenizer)
        official.run("convert_hf_to_gguf.py", *words, progress=progress, pre=pre, advice=advice)
    return {**found, "converter": dict(official.facts())}


def adaptable(checkpoint: Path, vouched: str) -> dict[str, JSON]:
    """The linear layers of a base that LoRA can adapt and its pre-tokenizer, from JSON and headers.

    For a model of ours `context_length` as well, which is that of a sliding window where llama.cpp knows of none.
    `vouched` is the value of `DLM_PRE_TOKENIZER`; an empty `pre_tokenizer` is one that llama.cpp's converter finds out
    itself. Raises BaseModelError for a base of an unknown architecture, or that is not as its configuration says.
    """
    config = read_json_object(checkpoint / "config.json", BaseModelError)
    tokenizer = read_json_object(checkpoint / "tokenizer.json", BaseModelError)
    if not is_known(checkpoint):
        linear = _known_to_transformers(checkpoint, config)
        return {"linear_layers": list(linear), "pre_tokenizer": _known_pre_tokenizer(tokenizer, vouched)}
    model = decoder_of_config(config, Where(str(checkpoint / "config.json")), BaseModelError)
    weights_of(checkpoint, model, BaseModelError)
    layers = {weight.hf.split(".")[-2] for weight in model.weights() if weight.linear}
    try:
        pre = pre_name(tokenizer, vouched)
    except BaseModelError as error:
        error.where = Where(str(checkpoint / "tokenizer.json"))
        raise
    return {"linear_layers": sorted(layers), "context_length": model.context, "pre_tokenizer": pre}


def _known_pre_tokenizer(tokenizer: dict[str, Any], vouched: str) -> str:
    """The name for llama.cpp's converter, "" where it has to find out itself: it knows more of them than we."""
    if space_in_front(tokenizer) is not None:
        return ""
    try:
        return pre_name(tokenizer)
    except BaseModelError:
        return vouched_name(tokenizer, vouched)


def is_known(checkpoint: Path) -> bool:
    """Whether our own tables convert the architecture of a checkpoint."""
    architectures = read_json_object(checkpoint / "config.json", BaseModelError).get("architectures")
    return isinstance(architectures, list) and len(architectures) == 1 and architectures[0] in FAMILIES


def weights_of(checkpoint: Path, model: Decoder, error: type[DlmError]) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint folder by name, exactly those that `model` has; raises `error` otherwise."""
    stored = read_checkpoint(checkpoint, error)
    stored = {name: tensor for name, tensor in stored.items() if not name.endswith(_BUFFER)}
    if model.layers * max(1, model.experts) > len(stored):  # before a list is made of what it claims
        what = f"the configuration promises {model.layers} layers"
        raise error(what, where=Where(str(checkpoint)), why=f"the checkpoint holds {len(stored)} tensors")
    expected = {source: weight.source_shape for weight in model.weights() for source in weight.sources}
    if model.tied and "lm_head.weight" in stored:
        output, embedding = stored.pop("lm_head.weight"), stored.get("model.embed_tokens.weight")
        if embedding is None or not output.is_equal(embedding):
            raise error(
                "the checkpoint holds lm_head.weight",
                where=Where(str(checkpoint)),
                why="its configuration says that the output layer is the token embedding (tie_word_embeddings)",
                do="remove one of the two",
            )
    compare_tensors(expected, stored, Where(str(checkpoint)), error)
    return stored


def require_architecture(architecture: str, where: Where) -> None:
    """Refuse an architecture that neither we nor transformers know. Raises BaseModelError, or MissingExtra."""
    if architecture in FAMILIES:
        return
    if find_spec("transformers") is None or find_spec("torch") is None:
        raise MissingExtra(
            "a base of this architecture needs transformers and torch", do="pip install 'dlmbuild[train]'"
        )
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known: set[str] = set()
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        known.update([name] if isinstance(name, str) else name)
    if architecture not in known:
        raise BaseModelError(
            f"the base has the architecture {architecture!r}",
            where=where,
            why=f"known are {', '.join(sorted(FAMILIES))} and other language models of transformers "
            f"{transformers.__version__} and llama.cpp, and this one is not among those of transformers",
            do="write a base_model of one of these, for example smollm2-135m",
        )


def _known_to_transformers(checkpoint: Path, config: dict[str, Any]) -> list[str]:
    """The names of a model's linear layers inside blocks, from the code of transformers, without its weights."""
    where = Where(str(checkpoint / "config.json"))
    (architecture,) = config["architectures"]
    require_architecture(architecture, where)
    import torch
    import transformers

    try:
        read = transformers.AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(read, trust_remote_code=False)
    except Exception as problem:  # whatever its code makes of a configuration
        raise BaseModelError(
            "transformers cannot make a model of this configuration", where=where, why=str(problem)
        ) from None
    paths = [name.split(".") for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    layers = sorted({path[-1] for path in paths if any(part.isdigit() for part in path[:-1])})
    if not layers:
        raise BaseModelError(
            f"the model {architecture} has no linear layers inside its blocks",
            where=where,
            why="those are what an adapter changes",
            do="take a base of another architecture",
        )
    return layers
