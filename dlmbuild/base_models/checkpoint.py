"""A checkpoint folder as models are published: which of its files are taken, and what they say about the model.

Everything is read from JSON and from the headers of the weights; no weight is loaded and no code of the folder is run.
"""

from __future__ import annotations

import math
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from dlmbuild.base_models.fields import Fields
from dlmbuild.base_models.registry import Row
from dlmbuild.errors import BaseModelError, Where
from dlmbuild.io.digest import JSON, sha256_file
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.progress import Progress
from dlmbuild.io.safetensors_file import INDEX, StoredTensor, read_checkpoint

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
OPTIONAL = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "NOTICE.txt",
)
"""Files that are taken along where they exist. Code (*.py) and pickles (*.bin, *.pt) never are."""

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def copy_checkpoint(
    source: Path, out: Path, *, inside: Path, vouched: Row | None, look: Callable[[Path], object], progress: Progress
) -> None:
    """Copy the files of the checkpoint `source` to `out`, after looking at all that can be refused; so does `look`.

    Links are followed as far as they stay within `inside`. `vouched` is the registry row of the model, if it has one.
    """
    names = checkpoint_files(source, inside)
    _refuse_foreign_code(source, vouched)
    _describe(source)
    look(source)
    sizes = {name: (source / name).stat().st_size for name in names}
    require_space(out.parent, sum(sizes.values()))
    done = 0
    for name in names:
        progress("copying the base", done, sum(sizes.values()))
        shutil.copyfile(source / name, out / name)
        done += sizes[name]


def inspect(folder: Path) -> dict[str, JSON]:
    """The facts about a checkpoint folder: shape of the model, number of parameters, digest of every file.

    Raises BaseModelError if a file is missing, damaged, or says that the model is quantised or of an unknown kind, and
    if a weight is not a number.
    """
    names = checkpoint_files(folder)
    facts = _describe(folder)
    for name, tensor in read_checkpoint(folder, BaseModelError).items():
        if not tensor.is_finite():
            raise BaseModelError(
                "this file cannot be used",
                where=Where(str(tensor.path)),
                why=f"the tensor {name!r} holds an infinity or something that is not a number",
                do="write another base_model, or fetch or save this one again",
            )
    return {**facts, "files": {name: sha256_file(folder / name) for name in names}}


def checkpoint_files(folder: Path, inside: Path | None = None) -> list[str]:
    """The names of the files in `folder` that make up the checkpoint, sorted.

    Raises BaseModelError if one is missing, or is a link that leads out of `inside` (`folder`, if not said).
    """
    present = {path.name for path in folder.iterdir()}
    if CONFIG not in present:
        raise BaseModelError(
            f"{folder} is no checkpoint", why="it has no config.json", do="name the folder that holds the model's files"
        )
    if TOKENIZER not in present:
        raise BaseModelError(
            f"{folder} has no tokenizer.json",
            why="only the tokenizers library's own format is read",
            do="convert it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder), of the transformers library",
        )
    described = {CONFIG, TOKENIZER, *(name for name in (INDEX, *OPTIONAL) if name in present)}
    for name in sorted(described):
        _require_regular(folder / name, inside or folder)
    weights = _weight_files(folder, present)
    for name in sorted(weights):
        _require_regular(folder / name, inside or folder)
    return sorted(described | weights)


def require_space(folder: Path, needed: int) -> None:
    """Refuse now what would end in a full disk later. `needed` is in bytes."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise BaseModelError(
            f"not enough disk space in {folder}",
            why=f"the base takes {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free",
            do="make room, or set DLM_HOME to a folder on a larger disk",
        )


def _describe(folder: Path) -> dict[str, JSON]:
    config = read_json_object(folder / CONFIG, BaseModelError)
    if "quantization_config" in config:
        raise BaseModelError(
            f"the model in {folder} is quantised",
            why="config.json has a quantization_config",
            do="name the model it was quantised from; exports are quantised here",
        )
    if not isinstance(read_json_object(folder / TOKENIZER, BaseModelError).get("model"), dict):
        raise _damaged(folder / TOKENIZER, "it has no 'model'")
    tensors = read_checkpoint(folder, BaseModelError)
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += math.prod(tensor.shape)
    if not counts:
        raise _damaged(folder / WEIGHTS, "it holds no tensors")
    tied = config.get("tie_word_embeddings")
    tied = tied if isinstance(tied, bool) else "lm_head.weight" not in tensors
    parameters = counts.total()
    if tied and "lm_head.weight" in tensors:  # the same matrix, stored twice
        parameters -= math.prod(tensors["lm_head.weight"].shape)
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and len(architectures) == 1 and isinstance(architectures[0], str)):
        raise _damaged(folder / CONFIG, "'architectures' is not a list of one name")
    read = Fields(config, Where(str(folder / CONFIG)), BaseModelError)
    return {
        "architecture": architectures[0],
        "parameters": parameters,
        "layers": read.count("num_hidden_layers"),
        "hidden_size": read.count("hidden_size"),
        "vocab_size": read.count("vocab_size"),
        "context_length": read.count("max_position_embeddings"),
        "tied": tied,
        "linear_layers": _linear_layers(tensors),
        "dtype": _DTYPES[counts.most_common(1)[0][0]],
    }


def _linear_layers(tensors: Mapping[str, StoredTensor]) -> list[JSON]:
    """The names of the linear layers inside blocks: what an adapter may adapt. Experts are none in transformers."""
    paths = [name.split(".") for name, tensor in tensors.items() if len(tensor.shape) == 2]
    return sorted(
        {path[-2] for path in paths if path[-1] == "weight" and "layers" in path[:-2] and "experts" not in path}
    )


def _weight_files(folder: Path, present: set[str]) -> set[str]:
    if INDEX in present:
        names = read_json_object(folder / INDEX, BaseModelError).get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise _damaged(folder / INDEX, "it has no weight_map")
        shards = set(names.values())
        if missing := sorted(shards - present):
            raise _damaged(folder / INDEX, f"it names {missing[0]!r}, which is not there ({len(missing)} missing)")
        return {INDEX, *shards}
    if WEIGHTS in present:
        return {WEIGHTS}
    pickles = sorted(name for name in present if name.endswith(_PICKLES))
    raise BaseModelError(
        f"{folder} has no model.safetensors",
        why=f"{pickles[0]} is a pickle, which can run code when it is loaded" if pickles else "there are no weights",
        do="save it again with transformers: model.save_pretrained(folder) writes safetensors"
        if pickles
        else "name the folder that holds the model's files",
    )


def _refuse_foreign_code(folder: Path, vouched: Row | None) -> None:
    config = read_json_object(folder / CONFIG, BaseModelError)
    # Some models had code of their own before transformers knew them; for a registry row we know that it does by now.
    native = vouched is not None and config.get("architectures") == [vouched.architecture]
    for name in (CONFIG, "tokenizer_config.json"):
        data = read_json_object(folder / name, BaseModelError) if (folder / name).exists() else {}
        if not native and (data.get("auto_map") or data.get("trust_remote_code")):
            raise BaseModelError(
                "the model asks for Python code of its own (auto_map)",
                where=Where(str(folder / name)),
                why="code that comes with weights is never run",
                do="choose a model of an architecture that transformers knows",
            )


def _require_regular(path: Path, inside: Path) -> None:
    if not path.exists() or not stat.S_ISREG(path.stat().st_mode):
        raise _damaged(path, "it is not a regular file")
    if path.is_symlink() and not path.resolve().is_relative_to(inside.resolve()):
        raise BaseModelError(
            f"{path} is a link that leads out of {inside}",
            why="what a base consists of must lie in one place",
            do="copy the file into the folder",
        )


def _damaged(path: Path, why: str) -> BaseModelError:
    do = "fetch or save the model again"
    return BaseModelError("this file cannot be used", where=Where(str(path)), why=why, do=do)
