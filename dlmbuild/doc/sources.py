"""The sources of a document: folders and files, named by `training.sources`, whose texts are trained with it as prose.

A build is made from the digests that are found here. The texts themselves are read where rows are made, see
`source_file.source_text`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.doc import ignore
from dlmbuild.doc.mistakes import shown
from dlmbuild.doc.source_file import MAX_BYTES, shown_name
from dlmbuild.doc.source_memory import Memory
from dlmbuild.doc.source_rules import Rules
from dlmbuild.doc.source_tree import Tree
from dlmbuild.errors import DocumentError
from dlmbuild.io.digest import sha256_json

if TYPE_CHECKING:
    from dlmbuild.doc.document import Document

Key = tuple[str | int, ...]


class SourceError(DocumentError):
    """A source that cannot be read as its document asks; `key` is the place in the frontmatter."""

    def __init__(self, key: Key, what: str, *, why: str = "", do: str = "") -> None:
        self.key = key
        super().__init__(what, why=why, do=do)


@dataclass(frozen=True, slots=True)
class Found:
    """What one source gives."""

    path: str
    """As the document has it."""
    root: str
    """The folder that names of files are relative to."""
    files: Mapping[str, str]
    """Name, with `/` between folders → SHA-256."""
    weights: Mapping[str, float]
    """Of the files that are not trained once."""
    linked: Mapping[str, str]
    """Name → where a link of this name leads."""
    skipped: Mapping[str, int]
    """Why → how many."""
    bytes: int
    named: str
    """The source's own path."""
    looked_at: Sequence[str]
    """Folders, files and configurations below the root."""

    def as_data(self) -> dict[str, Any]:
        """JSON data for document.json: nothing in it depends on where the project lies."""
        data = {"path": self.path, "files": dict(self.files), "skipped": dict(self.skipped)}
        return {**data, "weights": dict(self.weights)} if self.weights else data

    def watched(self) -> list[str]:
        """Every file and folder whose stat tells that something changed."""
        return [self.named, *(f"{self.root}/{name}" for name in self.looked_at)]

    def __str__(self) -> str:
        """One line for people: what counts, and what was left out."""
        count = len(self.files)
        line = f"{shown_name(self.path)}: {count} file{'' if count == 1 else 's'}, {_size(self.bytes)}"
        left_out = ", ".join(f"{number} {why}" for why, number in sorted(self.skipped.items()))
        return f"{line}; left out: {left_out}" if left_out else line


def find_sources(given: Sequence[Mapping[str, Any]], policy: str, document: Path, memory: Path | None) -> list[Found]:
    """Walk the sources in `given` (`training.sources` as data) of the document at the path `document`.

    `memory` is a folder to remember digests in from one time to the next. A file below two sources belongs to
    the first. Raises SourceError, and DocumentError or InvalidDocument for a mistake in a configuration below a source.
    """
    anchor = _anchor(document)
    roots = [_root(at, str(source["path"]), policy, anchor) for at, source in enumerate(given)]
    links = _links(roots) if policy != "strict" else None
    own = os.path.realpath(document)
    taken = {own}
    found = []
    for at, (source, root) in enumerate(zip(given, roots, strict=True)):
        tree = _walked(at, source, root, links, memory and memory / f"{sha256_json([own, at])[:32]}.jsonl")
        files: dict[str, str] = {}
        for name in sorted(tree.files):
            place = tree.linked.get(name) or os.path.join(tree.root, name)  # noqa: PTH118 - many thousand times
            if place in taken:
                tree.skipped["the document itself" if place == own else "already in another source"] += 1
            elif source["max_files"] is not None and len(files) == source["max_files"]:
                tree.skipped["over max_files"] += 1
            else:
                taken.add(place)
                files[name] = tree.files[name]
        found.append(_found(str(source["path"]), str(anchor / Path(str(source["path"])).expanduser()), tree, files))
    return found


def sources_of(document: Document, path: Path, memory: Path | None) -> list[Found]:
    """The sources of a parsed document that lies at `path`. Raises DocumentError and InvalidDocument."""
    training = document.frontmatter.training
    given = [source.model_dump() for source in training.sources or ()]
    try:
        return find_sources(given, training.sources_policy, path, memory)
    except SourceError as error:
        where = document.where(*error.key)
        raise DocumentError(error.what, where=where, why=error.why, do=error.do) from None


def folder_of(path: str, document: Path) -> str:
    """The folder that names of files of a source are relative to."""
    place = os.path.realpath(_anchor(document) / Path(path).expanduser())
    return place if os.path.isdir(place) else place.rpartition("/")[0]  # noqa: PTH112


def _anchor(document: Path) -> Path:
    """Where paths of sources start: beside the document, or beside the `.dlm` that it lies in."""
    folder = document.absolute().parent
    return folder.parent if folder.name == ".dlm" else folder


def _found(path: str, named: str, tree: Tree, files: Mapping[str, str]) -> Found:
    weights = {name: weight for name, weight in tree.weights.items() if name in files}
    total = sum(tree.sizes[name] for name in files)
    linked = {name: target for name, target in tree.linked.items() if name in files}
    looked_at = [*sorted(tree.folders), *tree.seen]
    return Found(path, tree.root, files, weights, linked, dict(sorted(tree.skipped.items())), total, named, looked_at)


def _root(at: int, path: str, policy: str, anchor: Path) -> str:
    """Where a source lies, all links followed."""
    key = ("training", "sources", at, "path")
    name = f"training.sources[{at}].path"
    if "\0" in path:
        raise SourceError(key, f"{name} holds a NUL", do="delete it")
    root = os.path.realpath(anchor / Path(path).expanduser())
    try:
        mode = os.stat(root).st_mode  # noqa: PTH116
    except OSError as error:
        raise SourceError(
            key, f"{name} is {shown(path)}: {error.strerror}", why="it is looked for beside the document", do="mend it"
        ) from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise SourceError(key, f"{name} is {shown(path)}, which is neither a folder nor a plain file", do="mend it")
    if policy == "strict" and not f"{root}/".startswith(f"{os.path.realpath(anchor)}/".replace("//", "/")):
        raise SourceError(
            key,
            f"{name} is {shown(path)}, which leads out of the document's folder",
            why="training.sources_policy is strict",
            do="move it there, or write sources_policy: permissive",
        )
    return root


def _links(roots: Sequence[str]) -> Callable[[str], str]:
    """Which links to files are followed: those that lead out of every source. In a source a file stands for itself."""

    def target(path: str) -> str:
        real = os.path.realpath(path)
        return "" if any(f"{real}/".startswith(f"{root.rstrip('/')}/") for root in roots) else real

    return target


def _walked(
    at: int,
    source: Mapping[str, Any],
    root: str,
    links: Callable[[str], str] | None,
    memory: Path | None,
) -> Tree:
    include, exclude = tuple(source["include"]), tuple(source["exclude"])
    limit = source["max_bytes_per_file"] or MAX_BYTES
    rules, known = Rules.of_document(include, exclude), Memory(memory)
    if not known.names("", rules.id):  # else these patterns were found to be good
        _check_patterns(at, source)
    single = not os.path.isdir(root)  # noqa: PTH112
    folder, _, name = root.rpartition("/") if single else (root, "", "")
    tree = Tree(folder or "/", _shown(folder), limit=limit, links=links, memory=known)
    try:
        if single:
            tree.only(name, rules._replace(defaults=False))  # who names a file means it
        else:
            tree.walk(rules)
    except OSError as error:
        path = shown(str(source["path"]))
        raise SourceError(
            ("training", "sources", at, "path"),
            f"training.sources[{at}] ({path}) cannot be read",
            why=error.strerror or str(error),
            do="check the path and its permissions",
        ) from None
    if single and not tree.files:
        why = ", ".join(tree.skipped)
        raise SourceError(
            ("training", "sources", at, "path"),
            f"training.sources[{at}].path is {shown(str(source['path']))}, which gives no text",
            why=f"it is {why}" if why else "it is gone",
            do="name a text file, or delete the source",
        )
    return tree


def _check_patterns(at: int, source: Mapping[str, Any]) -> None:
    for key in ("include", "exclude"):
        for number, pattern in enumerate(source[key]):
            wrong = ignore.refusal(pattern)
            if wrong:
                raise SourceError(("training", "sources", at, key, number), wrong.what, why=wrong.why, do=wrong.do)


def _shown(folder: str) -> str:
    relative = os.path.relpath(folder)
    return folder if relative.startswith("..") else relative


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count} bytes"
