"""doit behind `dlm`: all of its commands, with our words for what is wrong on a command line or in a dodo.py."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doit.cmd_base import DodoTaskLoader
from doit.cmdparse import CmdParseError
from doit.dependency import DatabaseException
from doit.doit_cmd import DoitMain
from doit.exceptions import InvalidCommand, InvalidDodoFile, InvalidTask
from doit.plugin import PluginDict

from dlmbuild.build.dodo import running_dodo
from dlmbuild.cli.words import no_empty_word
from dlmbuild.errors import DlmError, UsageError
from dlmbuild.io.streams import BROKEN_PIPE, write_nowhere

_BY_QUANTISATION = ("export", "merge", "smoke", "quantize")
"""The verbs whose tasks are named after a quantisation, too."""


class Engine(DoitMain):  # type: ignore[misc]
    """doit as its manual says ("extending doit"), with `dlm` for a name.

    `typed` is the command that a person typed, where it is another than doit's.
    """

    def __init__(self, typed: str = "") -> None:
        super().__init__(task_loader=_Loader())
        self._typed = typed

    def get_cmds(self) -> PluginDict:
        commands = _Commands(super().get_cmds())
        commands.typed = self._typed
        return commands

    def run(self, words: list[str]) -> int:
        no_empty_word(words)
        asked = [word for word in words if word not in ("--help", "-h")]
        if len(asked) < len(words):
            commands = self.get_cmds()
            words = ["help", next((word for word in asked if word in commands), "run")]
        if words[:1] == ["help"] and len(words) > 2:
            raise UsageError(f"dlm help: {' '.join(words[1:])} is more than one word", do="dlm help WORD")
        code = super().run(words) or 0  # some commands of doit return nothing when all went well
        # doit tells a failed task (1), an error in one (2) and a wrong command line (3) apart; here that is 2.
        return {0: 0, 1: 1, 2: 1, BROKEN_PIPE: BROKEN_PIPE}.get(code, 2)


class _Loader(DodoTaskLoader):  # type: ignore[misc]
    def setup(self, opt_values: Any) -> None:
        path = Path(opt_values["dodoFile"])
        with running_dodo(path, sought=not (opt_values["seek_file"] or opt_values["cwdPath"])):
            super().setup(opt_values)


class _Commands(PluginDict):  # type: ignore[misc]
    """doit's commands, each of which tells in our words what is wrong."""

    typed: str

    def get_plugin(self, key: str) -> Any:
        kind = super().get_plugin(key)
        return type(kind.__name__, (_InWords, kind), {"typed": self.typed})


class _InWords:
    """In front of a command's class: no error of it gets as far as doit, which would print a traceback."""

    name: str
    typed: str
    task_list: Sequence[Any] = ()

    def parse_execute(self, words: list[str]) -> int:
        try:
            return super().parse_execute(words)  # type: ignore[misc,no-any-return]
        except DlmError as error:
            told = error
        except CmdParseError as error:
            told = _wrong_option(error, self.typed or self.name, self._help)
        except InvalidCommand as error:
            told = self._wrong_word(error)
        except (InvalidDodoFile, InvalidTask) as error:
            told = UsageError(str(error).strip())
        except DatabaseException:  # doit's own database, which it takes where dodo.py says nothing of ours
            told = UsageError(
                "dodo.py declares no project, and .doit.db was written for one",
                do='globals().update(project("*.dlm")) in dodo.py declares one',
            )
        except BrokenPipeError:
            write_nowhere(1, 2)
            return BROKEN_PIPE
        except Exception as error:
            if os.environ.get("DLM_VERBOSE"):
                raise
            from dlmbuild.cli import in_words

            print(in_words(error), file=sys.stderr)
            return 1
        print(told, file=sys.stderr)
        return 1 if told.exit_code == 1 else 3

    @property
    def _help(self) -> str:
        return f"dlm {self.typed} --help" if self.typed else f"dlm help {self.name}"

    def _wrong_word(self, error: InvalidCommand) -> UsageError:
        found = re.fullmatch(r"'(.*)' is not a task\.", str(error), re.DOTALL)
        word = error.not_found or (found[1] if found else None)
        if word is None:
            return UsageError(str(error).strip(), do="" if "→" in str(error) else self._help)
        return _unknown_task(word, [task.name for task in self.task_list])


def _unknown_task(word: str, tasks: Sequence[str]) -> UsageError:
    from dlmbuild.doc.mistakes import nearest
    from dlmbuild.doc.names import QUANTISATIONS

    from . import COMMANDS

    verb, *rest = word.split(":")
    why = ""
    if rest and verb in _BY_QUANTISATION and rest[-1] not in QUANTISATIONS:
        why = f"the quantisations are {', '.join(QUANTISATIONS)}"
    by_lower = {name.lower(): name for name in (*tasks, *COMMANDS)}
    guess = by_lower.get(nearest(word, by_lower), "")
    do = f"dlm {guess}" if guess else "dlm list --all, which shows what can be built, or dlm --help"
    return UsageError(f"there is no task or command {word!r}", why=why, do=do)


def _wrong_option(error: CmdParseError, command: str, do: str) -> UsageError:
    cause = error.__context__
    found = re.match(r"Error parsing parameter '(\w+)'", str(error))
    if found and isinstance(cause, ValueError):
        told = f"the value of {found[1]} cannot be read: {cause}"
    else:
        told = getattr(cause, "msg", "") or str(error)  # getopt's own words, without doit's list of objects
    return UsageError(f"dlm {command}: {told}", do=do)
