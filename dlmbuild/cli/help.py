"""`doit help WORD`: doit's own, which shows of an unknown word all commands, and calls that done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from doit import cmd_help
from doit.exceptions import InvalidCommand

from dlmbuild.cli.printing import Printing


class Help(Printing, cmd_help.Help):  # type: ignore[misc]
    """doit's command, asked about a command or a task that exists."""

    name = "help"
    _asked: Sequence[str] = ()

    def execute(self, params: Any, args: list[str]) -> Any:
        self._asked = args
        return super().execute(params, args)

    def print_usage(self, cmds: Mapping[str, Any]) -> None:
        if self._asked:
            raise InvalidCommand(not_found=" ".join(self._asked))
        super().print_usage(cmds)
