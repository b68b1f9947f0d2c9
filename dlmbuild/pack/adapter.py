"""What the adapter of a pack may say of itself: it was written by a stranger, and PEFT believes its configuration.

PEFT's configurations can name modules to import, patterns to search with, files to start from, layers to repeat. What a
training here writes (train/commit.py) needs none of it, so a pack's may only say what such a training says; whatever
else a version of PEFT knows has to be switched off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dlmbuild.errors import PackError, Where

CONFIG = "adapter_config.json"
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


def _refused(found: str) -> PackError:
    return PackError(
        f"the adapter's configuration has {found}",
        where=Where(CONFIG),
        why="a pack's adapter may only be a plain LoRA or DoRA, as a training here writes it",
    )
