"""What a dodo file declares, where it does no more than that: running it again would then come to the same."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

_PLAIN = r"""globals\(\)\.update\(project\((?:'[^']*'|"[^"]*"|, )*\)\)"""
"""The call that a plain dodo file makes, as ast.unparse spells it."""
OURS = ("dlmbuild.rules", "project")
"""Where the only name comes from that a dodo file needs."""
_MEANT = ("project", "globals")
"""The names in that call, which have to mean what they mean in every project."""
_CONFIGURATIONS = ("pyproject.toml", "doit.cfg")
"""Where doit looks for settings."""


def declared_names(dodo: str) -> set[tuple[str, str]] | None:
    """The names that a plain dodo file defines or takes from modules, as (module, name); None if it is not plain.

    A plain one only declares projects and tasks, so that running it again would come to the same: it may import, define
    functions, and write `globals().update(project("*.dlm"))` with patterns spelled out.
    """
    try:
        tree = ast.parse(Path(dodo).read_text("utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    bound: set[tuple[str, str]] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            bound.add(("", node.name))
        elif isinstance(node, ast.ImportFrom):
            bound.update((node.module or "", alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            if any(alias.asname in _MEANT for alias in node.names):
                return None
        elif not _is_text(node) and not re.fullmatch(_PLAIN, ast.unparse(node)):
            return None
    bound = {found for found in bound if found[0] != "__future__"}
    return None if any(name in (*_MEANT, "*") for _, name in bound - {OURS}) else bound


def configures_doit() -> bool:
    """Whether doit has settings of its own in the current folder, or may have: a file that cannot be read."""
    for name in _CONFIGURATIONS:
        try:
            if (name == "doit.cfg" and Path(name).exists()) or b"doit" in Path(name).read_bytes():
                return True
        except FileNotFoundError:
            pass
        except OSError:
            return True
    return False


def deciding(folder: str) -> Iterable[str]:
    """The files that decide what the dodo file in `folder` comes to: itself, what it imports from there, settings."""
    below = folder.rstrip(os.sep) + os.sep
    installed = (sys.prefix + os.sep, sys.base_prefix + os.sep)  # an environment may lie in the project
    loaded = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    imported = [path for path in loaded if path.startswith(below) and not path.startswith(installed)]
    return {*(below + name for name in ("dodo.py", *_CONFIGURATIONS)), *imported}


def _is_text(node: ast.stmt) -> bool:
    return isinstance(getattr(getattr(node, "value", None), "value", None), str)  # a docstring
