"""Imports run one way (cli → rules → build → the work), and light commands load nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("errors",),
    ("io",),
    ("doc",),
    ("store", "lock"),
    ("base_models", "hardware"),
    ("data", "replay"),
    ("train",),
    ("inference",),
    ("export", "eval"),
    ("pack",),
    ("jobs",),
    ("build",),
    ("rules",),
    ("cli",),
)
"""From the bottom to the top: a module imports from its own part and from layers below, never sideways."""

RANK = {"": -1} | {part: number for number, layer in enumerate(LAYERS) for part in layer}
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "numpy",
    "gguf",
    "tokenizers",
    "jinja2",
    "huggingface_hub",
    "xllamacpp",
    "ollama",
    "httpx",
)
FOR_DOCUMENTS = ("pydantic", "ruamel")


def modules() -> dict[str, Path]:
    """Every module by its name."""
    found = {}
    for path in ROOT.glob("dlmbuild/**/*.py"):
        found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    for path in ROOT.glob("rules/*.py"):
        found[f"dlmbuild.rules.{path.stem}".removesuffix(".__init__")] = path
    return found


MODULES = modules()


@cache
def imports(name: str) -> tuple[tuple[int, str, bool], ...]:
    """(line, module, whether it is loaded together with `name`) for each import, those inside functions included."""
    return tuple(_walk(name, ast.parse(MODULES[name].read_text()), at_once=True))


def _walk(name: str, node: ast.AST, *, at_once: bool) -> Iterator[tuple[int, str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from ((line, module, False) for line, module, _ in _walk(name, child, at_once=False))
        elif isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            source = _absolute(name, child)
            for alias in child.names:  # `from package import module` names a module, too
                module = f"{source}.{alias.name}"
                yield child.lineno, module if module in MODULES else source, at_once
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(name, child, at_once=at_once and not inside)


def _absolute(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def part(module: str) -> str:
    """`dlmbuild.store.objects` → `store`."""
    return ([*module.split("."), ""])[1]


def test_every_part_has_its_layer() -> None:
    assert {part(name) for name in MODULES} == {"", *RANK}


def test_imports_run_one_way() -> None:
    upward = [
        f"{name}:{line} imports {module}"
        for name in MODULES
        for line, module, _ in imports(name)
        if module.startswith("dlmbuild.") and part(name) != part(module) and RANK[part(module)] >= RANK[part(name)]
    ]
    assert upward == []


def test_inside_a_part_there_is_no_circle() -> None:
    left = {name: {m for _, m, at_once in imports(name) if at_once and m in MODULES and m != name} for name in MODULES}
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_only_the_build_side_knows_doit() -> None:
    knowing = {part(name) for name in MODULES for _, module, _ in imports(name) if module.split(".")[0] == "doit"}
    assert knowing <= {"build", "rules", "cli"}


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    at_once = [
        f"{name}:{line} imports {module}"
        for name in MODULES
        for line, module, together in imports(name)
        if together and module.split(".")[0] in HEAVY
    ]
    assert at_once == []


def test_only_doc_reads_documents() -> None:
    reading = {part(name) for name in MODULES for _, module, _ in imports(name) if module.startswith(FOR_DOCUMENTS)}
    assert reading == {"doc"}


def loaded_by(script: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys\n{script}\nprint(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


@pytest.mark.parametrize(
    "script",
    [
        "import dlmbuild",
        "import dlmbuild.rules",
        "\n".join(f"import {name}" for name in sorted(MODULES) if part(name) in ("build", "rules")),
        "import dlmbuild.cli",
    ],
    ids=["dlmbuild", "rules", "build", "cli"],
)
def test_a_build_graph_loads_nothing_heavy(script: str) -> None:
    assert not loaded_by(script) & {*HEAVY, *FOR_DOCUMENTS, "rich", "filelock", "tomli_w"}
