"""The sources of a document: folders and files, named by `training.sources`, whose texts are trained with it as prose.

A build is made from the digests that are found here. The texts themselves are read where rows are made, see
`source_file.source_text`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.doc import ignore
from dlmbuild.doc.block import Path as Key
from dlmbuild.doc.block import spelled
from dlmbuild.doc.ignore import NEVER
from dlmbuild.doc.mistakes import shown
from dlmbuild.doc.source_file import MAX_BYTES, shown_name
from dlmbuild.doc.source_memory import Memory
from dlmbuild.doc.source_rules import Rules
from dlmbuild.doc.source_tree import Tree
from dlmbuild.errors import DlmError, DocumentError, InvalidDocument, Where
from dlmbuild.io.digest import sha256_json

if TYPE_CHECKING:
    from dlmbuild.doc.frontmatter import Head


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


def find_sources(
    given: Mapping[int, Mapping[str, Any]], policy: str, document: Path, memory: Path | None
) -> list[Found]:
    """Walk the sources in `given` (place in `training.sources` → as data) of the document at the path `document`.

    `memory` is a folder to remember digests in from one time to the next. A file below two sources belongs to
    the first. Raises InvalidDocument with all mistakes: a SourceError for each in the document, and those in
    configurations below the sources.
    """
    anchor = _anchor(document)
    errors: list[DlmError] = []
    roots: dict[int, str] = {}
    for at, source in given.items():
        try:
            roots[at] = _root(at, str(source["path"]), policy, anchor)
        except SourceError as error:
            errors.append(error)
    links = _links(list(roots.values())) if policy != "strict" else None
    own = os.path.realpath(document)
    taken = {own}
    found = []
    for at, source in given.items():
        known = Memory(memory and memory / f"{sha256_json([own, at])[:32]}.jsonl", own)
        rules = Rules.of_document(tuple(source["include"]), tuple(source["exclude"]))
        # Under rules that were tried before, the patterns are known to be good.
        tried = known.folder("")
        wrong = [] if tried and tried.rules == rules.id else list(_bad_patterns(at, source))
        if wrong:
            errors += wrong
            rules = Rules.of_document((), ())
        if at not in roots:
            continue
        try:
            tree = _walked(at, source, roots[at], rules, links, known, look_only=bool(wrong))
        except DlmError as error:
            errors.append(error)
            continue
        errors += tree.errors
        if errors:
            continue
        files = {name: tree.files[name] for name in sorted(tree.files)}
        most, others = source["max_files"], [own, *(root for place, root in roots.items() if place != at)]
        if most or tree.linked or any(_below(roots[at], other) or _below(other, roots[at]) for other in others):
            files = _not_taken(files, tree, taken, own, most)
        found.append(_found(str(source["path"]), str(_place(str(source["path"]), anchor)), tree, files))
    if errors:
        raise InvalidDocument(errors)
    return found


def sources_of(head: Head, shown: str, document: Path, memory: Path | None) -> list[Found]:
    """The sources of a document that lies at the path `document` and that errors name `shown`.

    Raises InvalidDocument, whose errors all have their position.
    """
    try:
        return find_sources(head.sources, head.sources_policy, document, memory)
    except InvalidDocument as caught:
        errors = list(caught.errors)
    for number, error in enumerate(errors):
        if isinstance(error, SourceError):
            where = Where(shown, *head.marks[error.key].value)
            errors[number] = DocumentError(error.what, where=where, why=error.why, do=error.do)
    raise InvalidDocument(list({str(error): error for error in errors}.values()))  # some lie below two sources


def without_text(found: Sequence[Found], where: Where) -> DocumentError | None:
    """What is wrong with a document that has no text of its own; `where` its sources are named. None if they give any.

    A file of weight 0 is never trained.
    """
    if any(source.weights.get(name, 1.0) for source in found for name in source.files):
        return None
    why, do = (
        "there is nothing to learn from the document",
        "name a file with text, or write text below the frontmatter",
    )
    return DocumentError("its sources give no text", where=where, why=why, do=do)


def folder_of(path: str, document: Path) -> str:
    """The folder that names of files of a source are relative to."""
    place = os.path.realpath(_place(path, _anchor(document)))
    return place if os.path.isdir(place) else place.rpartition("/")[0]  # noqa: PTH112


def _anchor(document: Path) -> Path:
    """Where paths of sources start: beside the document, or beside the `.dlm` that it lies in."""
    folder = document.absolute().parent
    return folder.parent if folder.name == ".dlm" else folder


def _place(path: str, anchor: Path) -> Path:
    return anchor / os.path.expanduser(path)  # noqa: PTH111 - pathlib's raises for a user that nobody knows


def _not_taken(files: Mapping[str, str], tree: Tree, taken: set[str], own: str, most: int | None) -> dict[str, str]:
    """Those of a tree's files that are not in `taken`, and from now on are."""
    kept: dict[str, str] = {}
    top = tree.root.rstrip("/")
    for name, digest in files.items():
        place = tree.linked.get(name) or f"{top}/{name}"
        if place in taken:
            tree.skipped["the document itself" if place == own else "already in another source"] += 1
        elif len(kept) == most:
            tree.skipped["over max_files"] += 1
        else:
            taken.add(place)
            kept[name] = digest
    return kept


def _below(path: str, folder: str) -> bool:
    """Whether a path leads to a folder or below it; neither has links."""
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _found(path: str, named: str, tree: Tree, files: Mapping[str, str]) -> Found:
    weights = {name: weight for name, weight in tree.weights.items() if name in files}
    sizes = tree.sizes
    if len(files) < len(tree.files):
        sizes = [size for name, size in zip(tree.files, tree.sizes, strict=True) if name in files]
    looked_at = [*sorted(tree.folders), *tree.seen]
    return Found(path, tree.root, files, weights, dict(sorted(tree.skipped.items())), sum(sizes), named, looked_at)


def _root(at: int, path: str, policy: str, anchor: Path) -> str:
    """Where a source lies, all links followed."""
    root = os.path.realpath(_place(path, anchor))
    try:
        mode = os.stat(root).st_mode  # noqa: PTH116
    except OSError as error:
        why = "it is looked for beside the document"
        raise _wrong_path(
            at, path, f": {error.strerror}", why=why, do="write where it lies, or delete it here"
        ) from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise _wrong_path(at, path, ", which is neither a folder nor a plain file", do="mend it")
    never = (NEVER - {".dlm"}).intersection(os.path.relpath(root, os.path.realpath(anchor)).split("/"))
    if never:
        raise _wrong_path(at, path, why=f"nothing takes in {min(never)}", do="name another folder or file")
    if policy == "strict" and not _below(root, os.path.realpath(anchor)):
        what, why = ", which leads out of the document's folder", "training.sources_policy is strict"
        raise _wrong_path(at, path, what, why=why, do="move it there, or write sources_policy: permissive")
    return root


def _wrong_path(at: int, path: str, what: str = "", *, why: str = "", do: str) -> SourceError:
    """A source whose path is `what`."""
    key = ("training", "sources", at, "path")
    return SourceError(key, f"{spelled(key)} is {shown(path)}{what}", why=why, do=do)


def _links(roots: Sequence[str]) -> Callable[[str], str]:
    """Which links to files are followed: those that lead out of every source. In a source a file stands for itself."""

    def target(path: str) -> str:
        real = os.path.realpath(path)
        return "" if any(_below(real, root) for root in roots) else real

    return target


def _walked(
    at: int,
    source: Mapping[str, Any],
    root: str,
    rules: Rules,
    links: Callable[[str], str] | None,
    known: Memory,
    *,
    look_only: bool,
) -> Tree:
    """The tree of one source; with `look_only` its configurations are looked for and nothing else."""
    limit = source["max_bytes_per_file"] or MAX_BYTES
    single = not os.path.isdir(root)  # noqa: PTH112
    folder, _, name = root.rpartition("/") if single else (root, "", "")
    tree = Tree(folder or "/", _shown(folder), limit=limit, links=links, memory=known, look_only=look_only)
    try:
        if single:
            tree.only(name, rules._replace(defaults=False))  # who names a file means it
        else:
            tree.walk(rules)
    except OSError as error:
        why, do = error.strerror or str(error), "check the path and its permissions"
        raise _wrong_path(at, source["path"], ", which cannot be read", why=why, do=do) from None
    if single and not tree.files and not look_only:
        why, do = f"it is {', '.join(tree.skipped) or 'gone'}", "name a text file, or delete the source"
        raise _wrong_path(at, source["path"], ", which gives no text", why=why, do=do)
    return tree


def _bad_patterns(at: int, source: Mapping[str, Any]) -> Iterator[SourceError]:
    for key in ("include", "exclude"):
        for number, pattern in enumerate(source[key]):
            wrong = ignore.refusal(pattern)
            if wrong:
                yield SourceError(("training", "sources", at, key, number), wrong.what, why=wrong.why, do=wrong.do)


def _shown(folder: str) -> str:
    relative = os.path.relpath(folder)
    return folder if relative.startswith("..") else relative


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count} bytes"
