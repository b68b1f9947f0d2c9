"""The tasks that the words of a command line name, and the words that name none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from doit.exceptions import InvalidCommand

_WITH_VALUE = frozenset(["-f", "-d", "-o", "-r", "-v", "-n", "-P"])
"""Options of `doit run` behind which a word of their own may stand."""


def selected(words: Sequence[str], tasks: Mapping[str, Any]) -> list[str]:
    """The names of the tasks that `words` name, each once; `*` in a word stands for anything.

    Raises InvalidCommand for the words that name no task, all of them.
    """
    found = {word: [word] if word in tasks else [name for name in tasks if _matches(name, word)] for word in words}
    refuse([word for word in words if not found[word]])
    return list(dict.fromkeys(name for names in found.values() for name in names))


def refuse(words: Sequence[str]) -> None:
    """Raise InvalidCommand if there are words that name no task."""
    if len(words) == 1 and "*" not in words[0]:
        raise InvalidCommand(f"'{words[0]}' is not a task.")  # as doit says it
    if words:
        raise InvalidCommand(f"no task matches {', '.join(words)}\n  → doit list --all shows them")


def unmatched(argv: Sequence[str], tasks: Mapping[str, Any]) -> list[str]:
    """The patterns of a command line for `doit run` that match no task, where doit takes them for wishes fulfilled."""
    return [word for word in _patterns(argv, tasks) if not any(_matches(name, word) for name in tasks)]


def in_order(tasks: Mapping[str, Any], selected: Sequence[str]) -> Iterator[str]:
    """The names of the tasks with work that `selected` needs, in the order in which doit would come to them."""
    seen: set[str] = set()

    def visit(name: str) -> Iterator[str]:
        if name in seen:
            return
        seen.add(name)
        for needed in tasks[name].task_dep:
            yield from visit(needed)
        if tasks[name].actions:
            yield name

    for name in selected:
        yield from visit(name)


def refuse_impossible(tasks: Mapping[str, Any], selected: Sequence[str]) -> None:
    """Raise InvalidCommand if `selected` needs steps that cannot be done whatever is built before, for all of them."""
    steps = {name: (task.meta or {}).get("step") for name, task in tasks.items()}
    reasons = {name: step.impossible for name, step in steps.items() if step and step.impossible}
    if needed := [name for name in in_order(tasks, selected) if name in reasons] if reasons else []:
        raise InvalidCommand("\n".join(dict.fromkeys(str(reasons[name]()) for name in needed)))


def _patterns(argv: Sequence[str], tasks: Mapping[str, Any]) -> Iterator[str]:
    for before, word in zip(["", *argv], argv, strict=False):
        if word in tasks and (tasks[word].pos_arg or tasks[word].params):
            return  # what follows are this task's own words
        if "*" in word and "=" not in word and not word.startswith("-") and before not in _WITH_VALUE:
            yield word


def _matches(name: str, word: str) -> bool:
    return "*" in word and fnmatchcase(name, word)
