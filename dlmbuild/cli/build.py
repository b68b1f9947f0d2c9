"""`dlm build [TASK …]`: what `doit` does, with "everything is up to date" answered before doit is even imported.

See build/uptodate.py. Little more than what the interpreter has loaded anyway is imported for it.
"""

from __future__ import annotations

import sys

from dlmbuild.build.uptodate import plain_words, still_true

_HELP = """usage: dlm build [OPTION …] [TASK …]

What `doit` does, and known in a few milliseconds when there is nothing to do.

  TASK     as `doit list --all` shows them; without one, the default export of every document
  OPTION   those of `doit`, which `dlm help run` shows, for example -n 2 for two steps at a time"""


def run(words: list[str]) -> int:
    """Build; `words` are doit's. Returns doit's exit code in `dlm`'s terms."""
    if "--help" in words or "-h" in words:
        print(_HELP)
        return 0
    sys.argv[1:] = ["run", *words]  # which the dodo file and the reporter look at, too
    plain = plain_words(sys.argv)
    note = still_true(plain, graph=False) if plain is not None else None
    if note is not None and note.alone:
        print(f"everything is up to date ({note.steps} steps)")
        return 0
    from dlmbuild.cli import run_doit

    return run_doit(["run", *words], typed="build")
