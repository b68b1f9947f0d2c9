"""What the adapter of a pack may be and say of itself: a stranger wrote it, and PEFT believes its configuration.

PEFT's configurations can name modules to import, patterns to search with, files to start from, layers to repeat. What a
training here writes (train/commit.py) needs none of it, so a pack's may only say what such a training says; whatever
else a version of PEFT knows has to be switched off. Its tensors have to be those that the configuration promises, and
to suit the base where that is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dlmbuild.errors import DlmError, ExportError, PackError, Where
from dlmbuild.export.adapter_gguf import CONFIG, WEIGHTS, Adaptable, adapted
from dlmbuild.export.conversion import adaptable
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.safetensors_file import described_tensors
from dlmbuild.store.layout import Home

_MOST_MODULES = 100
_MOST_RANK = 4096
_MOST_LAYERS = 1000


def _one_of(*values: object) -> Callable[[Any], bool]:
    return lambda found: any(type(found) is type(value) and found == value for value in values)


def _number(least: float, most: float, *types: type) -> Callable[[Any], bool]:
    return lambda found: type(found) in types and least <= found <= most


def _modules(found: Any) -> bool:
    few = isinstance(found, list) and 0 < len(found) <= _MOST_MODULES
    return few and all(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.]{1,200}", name) for name in found)


def _layers(found: Any) -> bool:
    return isinstance(found, list) and len(found) <= _MOST_LAYERS and all(map(_number(0, _MOST_LAYERS, int), found))


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "peft_type": _one_of("LORA"),
    "task_type": _one_of("CAUSAL_LM"),
    "bias": _one_of("none"),
    "inference_mode": _one_of(True),
    "init_lora_weights": _one_of(True),  # others read files, or change the base
    "r": _number(1, _MOST_RANK, int),
    "lora_alpha": _number(0, 1e6, int, float),
    "lora_dropout": _number(0, 1, int, float),
    "target_modules": _modules,  # names; a text would be searched with as a pattern
    "layers_to_transform": _layers,
    "use_rslora": _one_of(True, False),
    "use_dora": _one_of(True, False),
    "megatron_core": _one_of("megatron.core"),  # PEFT's own, and used only if megatron_config is not off
    "qalora_group_size": _number(1, 1 << 20, int),
    "peft_version": lambda found: isinstance(found, str) and len(found) <= 100,
}
_NEEDED = ("peft_type", "r", "lora_alpha", "target_modules")
_OFF: tuple[object, ...] = (None, False, {}, [])


def check_config(config: Mapping[str, Any], base: object) -> None:
    """Refuse a configuration that says more than which LoRA or DoRA this is, on the `base` of its record.

    Raises PackError with what was found.
    """
    for name in _NEEDED:
        if name not in config:
            raise _refused(f"no {name}")
    named = base if isinstance(base, Mapping) else {}
    checks = {
        **_CHECKS,
        "base_model_name_or_path": _one_of(named.get("name")),
        "revision": _one_of(named.get("revision")),
    }
    for name, value in config.items():
        if name in checks and checks[name](value):
            continue
        if name in _NEEDED or not any(type(value) is type(off) and value == off for off in _OFF):
            raise _refused(f"{name} = {value!r}"[:200])


def check_weights(head: bytes, size: int, config: Mapping[str, Any], base: object, home: Home) -> None:
    """Refuse weights, `size` bytes that begin with `head`, which are not what a checked configuration promises.

    Where the `base` lies in the home they have to suit it, too. Raises PackError.
    """
    where = Where(WEIGHTS)
    try:
        stored = described_tensors(Path(WEIGHTS), head, size, ExportError)
        targets = tuple(f".{name}" for name in config["target_modules"])
        for module in adapted(stored, config, where):
            layer = next((int(part) for part in module.split(".") if part.isdecimal()), None)
            if not f".{module}".endswith(targets) or layer not in (config.get("layers_to_transform") or (layer,)):
                raise ExportError(f"the adapter changes {module!r}", why=f"{CONFIG} names no such module")
        for known in _modules_of(base, home):
            adapted(stored, config, where, known)
    except ExportError as error:
        raise PackError(f"the adapter's weights do not fit: {error.what}", where=where, why=error.why) from None


def _modules_of(base: object, home: Home) -> Iterator[dict[str, Adaptable]]:
    """The modules of a base as it lies here; none where it does not, or is damaged."""
    files = base.get("files") if isinstance(base, Mapping) else None
    for folder in home.bases():
        with suppress(DlmError, KeyError):
            facts = read_json_object(folder.facts, ExportError)
            if facts["files"] == files:
                yield adaptable(folder.root / str(facts["revision"]))


def _refused(found: str) -> PackError:
    return PackError(
        f"the adapter's configuration has {found}",
        where=Where(CONFIG),
        why="a pack's adapter may only be a plain LoRA or DoRA, as a training here writes it",
    )
