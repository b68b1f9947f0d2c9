"""Take back for good what a document said once and says no more. Says what would go; `--delete` lets it go."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlmbuild.replay.purge import Found

_SHOWN = 20
"""Files that are named before the others are counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("document", help="name or path of a document")
    parser.add_argument(
        "text", nargs="?", default="", help="a part of what is meant (default: all that it says no more)"
    )
    parser.add_argument("--delete", action="store_true", help="delete it; without this nothing is touched")
    parser.add_argument("--models", action="store_true", help="also the adapters and exports that were trained on it")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.build.history import shortened
    from dlmbuild.build.project import find_document
    from dlmbuild.doc.document import as_data, parse
    from dlmbuild.replay.purge import Purge
    from dlmbuild.store.disk import require_readable
    from dlmbuild.store.exclusive import all_exclusive
    from dlmbuild.store.gc import lockable

    project, document = find_document(arguments.document, Path.cwd())
    home, path = project.archive.home, project.folder / document.path
    require_readable(home, document.store.root)
    present = as_data(parse(path))
    if document.sources:
        from dlmbuild.doc.sources import find_sources

        given, policy = document.sources["given"], document.sources["policy"]
        present["sources"] = [one.as_data() for one in find_sources(dict(enumerate(given)), policy, path, home.sources)]
    _refuse_what_is_said(arguments.text, path, document.path)
    packs = {pack for pack in project.folder.glob("*.dlm.pack") if _is_of(document.dlm_id, pack)}
    beside = [*sorted({*packs, path.with_suffix(".dlm.pack")}), project.folder / ".doit.db"]
    locked = partial(lockable, home) if arguments.delete else list[Path]
    with all_exclusive(locked, "dlm purge", lambda text: print(text, file=sys.stderr)):
        purge = Purge(home, document.store, present, arguments.text, beside)
        found = purge.find()
        for said in found.said:
            print(f"  {shortened(purge.telling(said))}")
        nothing = not (found.said or found.files or found.stray)
        if nothing:
            print(f"nothing is here that {document.name} does not say now")
        elif not arguments.delete:
            count = len(found.files) + len(found.stray)
            print(f"{document.name} says {_texts(found)} no more; {count} files hold it, or may")
        if purge.unsearched:
            _name_unsearched(arguments, purge.unsearched)
        models = [*found.versions, *found.unknown, *found.models]
        if models and not (arguments.delete and arguments.models):
            _name_models(arguments, found, document.store.root)
        if not arguments.delete:
            print("" if nothing else f"  → {_command(arguments, '--delete')}\n", end="")
            return 0
        purge.delete(found, models=arguments.models)
        left, searched = purge.left()
    going = [*found.files, *found.stray, *(models if arguments.models else ())]
    print(f"{_texts(found)} of {document.name} purged, {len(going)} files and folders deleted")
    if others := purge.said_elsewhere():
        print(f"other documents say some of it, and keep it: {', '.join(others)}")
    if left:
        print("it is still said in:", *left, sep="\n  ")
        return 1
    but = ", as far as is known: see the files above" if purge.unsearched else ""
    print(f"searched again: of {searched} files below {home.root} none holds it{but}")
    return 0


def _name_unsearched(arguments: argparse.Namespace, names: list[str]) -> None:
    import shlex

    shown = f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ", ".join(names)
    print(f"files of its sources that changed or went are not searched for words, but found by their names: {shown}")
    print(f"  to take one back as a whole: {shlex.join(['dlm', 'purge', arguments.document, names[0]])}")


def _name_models(arguments: argparse.Namespace, found: Found, store: Path) -> None:
    for versions, what in ((found.versions, "were trained on some of it"), (found.unknown, "may have been")):
        if versions:
            print(f"adapter versions that {what}: {', '.join(map(_named, versions))}")
    inside = [path.relative_to(store) for path in found.models if path.is_relative_to(store)]
    if exports := sorted({str(path.parent) for path in inside if path.parts[0] in ("exports", "hub", "runtime")}):
        print(f"made from these: {', '.join(exports)}")
    print(f"  a model may say again what it has learned; to delete these: {_command(arguments, '--delete --models')}")


def _is_of(dlm_id: str, pack: Path) -> bool:
    """Whether a file is a pack of the document, whatever that was called when it was packed."""
    from dlmbuild.errors import PackError
    from dlmbuild.pack.format import read_header

    try:
        return read_header(pack).dlm_id == dlm_id
    except (PackError, OSError):
        return False


def _texts(found: Found) -> str:
    return f"{len(found.said)} {'text' if len(found.said) == 1 else 'texts'}"


def _named(version: Path) -> str:
    adapter = version.parent.parent.name
    return version.name if adapter == "adapter" else f"{adapter} {version.name}"


def _command(arguments: argparse.Namespace, options: str) -> str:
    import shlex

    return shlex.join(["dlm", "purge", arguments.document, *filter(None, [arguments.text]), *options.split()])


def _refuse_what_is_said(text: str, path: Path, shown: Path) -> None:
    from dlmbuild.errors import DocumentError, Where
    from dlmbuild.io.text import read_text
    from dlmbuild.replay.texts import phrase

    written = read_text(path)
    if text.strip() and (found := phrase(text).search(written)):
        before = written[: found.start()]
        raise DocumentError(
            "the document says this still",
            where=Where(str(shown), before.count("\n") + 1, len(before) - before.rfind("\n")),
            why="the next build would bring it back",
            do="delete it here first",
        )
