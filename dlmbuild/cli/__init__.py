"""`dlm`: the commands for documents, and all of doit for building them. One file per command.

Exit codes: 0 done, 1 failed, 2 the command line was wrong, 130 interrupted, 141 nobody reads the output any more,
143 terminated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "init": "start a project folder with a document to write in",
    "check": "say whether documents are well written, and where not",
    "migrate": "bring documents to the newest version of the format",
    "prompt": "ask a built model a question",
    "serve": "answer over HTTP, as OpenAI's API does, from an export",
    "show": "what was built, and what uses the disk",
    "gc": "make room: what nothing needs any more",
    "purge": "take back for good what a document says no more",
    "unpack": "bring in a document and its adapter from a pack",
    "metrics": "how trainings went, and how the one that runs is going",
    "doctor": "what this machine can do, and whether a document's training fits it",
    "lock": "hold the project to what it was last trained under",
}
"""Our own commands, each in the module of its name; every other word goes to doit."""


_SWITCHES = {
    "--verbose": ("DLM_VERBOSE", "1"),
    "--strict-lock": ("DLM_LOCK", "strict"),
    "--update-lock": ("DLM_LOCK", "update"),
    "--ignore-lock": ("DLM_LOCK", "ignore"),
    "--full": ("DLM_FULL", "true"),
}
"""Words before the command → the environment that says the same."""


def _uncaught(kind: type[BaseException], error: BaseException, trace: object) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted\n")
    else:
        sys.__excepthook__(kind, error, error.__traceback__)


sys.excepthook = _uncaught  # at once: Ctrl-C may come before `main` is called, and after it has returned


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `dlm` script."""
    try:
        from dlmbuild.io.streams import BROKEN_PIPE, mend_streams, write_nowhere

        mend_streams()
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        except BrokenPipeError:
            write_nowhere(1, 2)
            return BROKEN_PIPE
    except KeyboardInterrupt as stop:
        if type(stop) is KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130
        from dlmbuild.build.abort import end_at_once

        print("\nterminated; what was finished is kept", file=sys.stderr)
        end_at_once()


def _run(words: list[str]) -> int:
    try:
        code = _command(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("DLM_VERBOSE"):
            raise
        print(in_words(error), file=sys.stderr)
        return getattr(error, "exit_code", 1)


def _command(words: list[str]) -> int:
    given: dict[str, str] = {}
    while words and words[0] in _SWITCHES:
        name, value = _SWITCHES[words[0]]
        if given.setdefault(name, words[0]) != words[0]:
            from dlmbuild.errors import UsageError

            raise UsageError(f"{given[name]} and {words[0]} exclude each other", do="write one of them")
        os.environ[name] = value
        del words[0]
    if len(words) == 2 and words[0] == "help" and words[1] in (*COMMANDS, "build"):
        words = [words[1], "--help"]
    if words and words[0] in ("--help", "-h", "help") and len(words) == 1:
        print(_usage())
        return 0
    if words == ["--version"]:
        from dlmbuild import __version__

        print(f"dlmbuild {__version__}")
        return 0
    if words and words[0] == "build":
        from dlmbuild.cli.build import run

        return run(words[1:])
    return _own(words) if words and words[0] in COMMANDS else run_doit(words)


def _own(words: list[str]) -> int:
    import importlib

    from dlmbuild.cli.words import Parser, no_empty_word

    no_empty_word(words)
    command = importlib.import_module(f"dlmbuild.cli.{words[0]}")
    parser = Parser(prog=f"dlm {words[0]}", description=command.__doc__)
    command.add_arguments(parser)
    # Behind -- there are no options; argparse forgets that where it lets options and the rest mix.
    parse = parser.parse_args if "--" in words else parser.parse_intermixed_args
    return int(command.run(parse(words[1:])))


def run_doit(words: list[str], *, typed: str = "") -> int:
    """Hand the words to doit; its exit code in our terms. `typed` is the command that stood in their place."""
    from dlmbuild.cli.engine import Engine

    return Engine(typed).run(words)


def in_words(error: Exception) -> str:
    """What a person is told about an error that nothing else has told."""
    from dlmbuild.errors import DlmError

    if isinstance(error, DlmError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'the output cannot be written'}: {error.strerror or error}"
    return f"{type(error).__name__}: {error}\n  this is a defect of dlmbuild; `dlm --verbose …` shows where"


def _usage() -> str:
    own = "\n".join(f"  dlm {name:<8} {text}" for name, text in COMMANDS.items())
    return (
        "dlm: documents are source code, tuned local models are the build output.\n\n"
        f"{own}\n\n"
        "Building is doit's, with `dlm` or `doit` in front of it:\n"
        "  doit                       the default export of every document here\n"
        "  dlm build                  the same, and quicker when there is nothing to do\n"
        "  doit export:Q8_0           every document at another quantisation\n"
        "  doit list [--all --status] what can be built, and what is up to date\n"
        "  doit why                   what a build would do, and why\n"
        "  doit clean, forget, info   as doit's manual says\n\n"
        "  dlm COMMAND --help         about one command\n"
        "  dlm --verbose …            shows where an error came from\n"
        "  dlm --strict-lock …        refuses whatever differs from dlm.lock; --update-lock accepts what is here,\n"
        "                             --ignore-lock neither reads nor writes it (doit lock=strict|update|ignore …)\n"
        "  dlm --full …               trains from the start, whatever training.incremental says (doit full=true …)"
    )
