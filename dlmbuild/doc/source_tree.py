"""One folder of sources, walked: which files count, what their digests are, and what was left out and why.

Folders are opened one inside the other and no link is followed on the way, so that nothing that happens meanwhile leads
the walk out of its root. A folder that did not change costs a `stat` for itself and for each of its files: what is
added, deleted or renamed in it shows in its ctime, which nobody can set.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path

from dlmbuild.doc.frontmatter import MAX_CHARACTERS
from dlmbuild.doc.ignore import NEVER, SECRETS, excluded_by_default
from dlmbuild.doc.source_config import read_config
from dlmbuild.doc.source_file import ChangedError, examine, shown_name
from dlmbuild.doc.source_memory import Folder, Memory, looks_of, settled, signature
from dlmbuild.doc.source_rules import BY_DEFAULT, Rules
from dlmbuild.errors import DlmError, DocumentError, InvalidDocument, Where
from dlmbuild.io.digest import sha256_json
from dlmbuild.io.text import unreadable

MAX_DEPTH = 64
"""Folders within folders."""
_MAX_PATH = 3800
"""Bytes; the longest path that can be opened has 4095."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONFIG = ("training.yaml", "ignore")
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_UNKNOWN = ("", "")
_FORBIDDEN = (errno.EACCES, errno.EPERM)


class Tree:
    """What lies below a root. `files` and the rest are filled by `walk`."""

    def __init__(
        self,
        root: str,
        shown: str,
        *,
        limit: int,
        links: Callable[[str], str] | None,
        memory: Memory,
        look_only: bool = False,
    ) -> None:
        """`root` is a path without links, `shown` how errors name it. Raises nothing yet.

        `links` says where a link to a file leads that may be read, or "" for one that may not; None for no link.
        With `look_only` no file is read but configurations.
        """
        self.root = root
        self.files: dict[str, str] = {}
        """Path from the root, with `/` → SHA-256."""
        self.weights: dict[str, float] = {}
        """Of those that are not trained once."""
        self.linked: dict[str, str] = {}
        """Path from the root → the file that a link of this path leads to."""
        self.skipped: Counter[str] = Counter()
        self.sizes: list[int] = []
        """Of the files, in their order."""
        self.folders: set[str] = set()
        """Those that were listed: "" for the root, `a/b/` for one below it."""
        self.seen: list[str] = []
        """Files that count by their name, whatever is in them, and configurations."""
        self.errors: list[DlmError] = []
        """What is wrong with configurations; once something is, the files do not matter any more."""
        self._look_only = look_only
        self._shown, self._limit, self._links, self._memory = shown, limit, links, memory

    def walk(self, rules: Rules) -> None:
        """Look at everything. Raises DocumentError (a file that cannot be read) and OSError (the root)."""
        fd = os.open(self.root, _FOLDER)
        try:
            self._folder(fd, "", rules, 0)
        finally:
            os.close(fd)
        if not self._look_only:
            self._memory.save(self.folders)

    def only(self, name: str, rules: Rules) -> None:
        """Look at one file of the root, which somebody named."""
        if self._look_only:
            return
        fd = os.open(self.root, _FOLDER)
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            known = self._memory.folder("")
            why = rules.why_not(name, name, folder=False)
            if why:
                self.skipped[why] += 1
                now = Folder(rules.id, "", {name: why}, [], [], "", 0)
            else:
                before, result = (known.digests() if known else {}).get(name, _UNKNOWN)
                now = self._count(fd, "", 1.0, Folder(rules.id, "", {}, [name], [result], before, 0), [found])
        finally:
            os.close(fd)
        self._memory.note_folder("", now)
        self._memory.save({""})

    def _folder(self, fd: int, prefix: str, rules: Rules, depth: int) -> None:
        self.folders.add(prefix)
        known, now = self._memory.folder(prefix), None
        own = os.fstat(fd)
        if known and known.own == signature(own) and known.rules == rules.id and not self._look_only:
            now = self._as_before(fd, prefix, known, rules)
        if now is None:
            now, rules = self._listed(fd, prefix, known, rules, signature(own) if settled(own) else "")
        if now is not known:
            self._memory.note_folder(prefix, now)
        for name in sorted(name for name, why in now.names.items() if not why):
            self._enter(fd, name[:-1], prefix, rules, depth)

    def _as_before(self, fd: int, prefix: str, known: Folder, rules: Rules) -> Folder | None:
        """Look at the files of a folder that has the names that are known; None if that cannot be."""
        try:
            found = [os.stat(name, dir_fd=fd, follow_symlinks=False) for name in known.files]
        except OSError:
            return None
        for name, why in known.names.items():
            if why:
                self.skipped[f"{why} (folders)" if name.endswith("/") else why] += 1
        return self._count(fd, prefix, rules.weight, known, found)

    def _listed(self, fd: int, prefix: str, known: Folder | None, rules: Rules, own: str) -> tuple[Folder, Rules]:
        """List a folder and look at its files: what is known of it now, and the rules below it."""
        with os.scandir(fd) as listing:
            entries = sorted(listing, key=attrgetter("name"))  # as the files of a source are in the end
        if any(entry.name == ".dlm" for entry in entries):
            rules, own = self._configured(fd, prefix, rules), ""
        digests = known.digests() if known else {}
        judged = {**dict.fromkeys(digests, ""), **known.names} if known and known.rules == rules.id else {}
        now, found, stats = Folder(rules.id, own, {}, [], [], "", 0), [], []
        for entry in entries:
            name = entry.name
            if name == ".dlm":
                continue
            if entry.is_file(follow_symlinks=False):
                if self._look_only:
                    continue
                why = judged.get(name)
                if why is None:
                    why = _bad_name(name) or rules.why_not(name, prefix + name, folder=False)
                if why:
                    now.names[name] = why
                    self.skipped[why] += 1
                    continue
                try:
                    found.append(entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue  # it is gone meanwhile
                except PermissionError:
                    self.skipped["not readable"] += 1
                    now = now._replace(own="")
                    continue
                before, result = digests.get(name, _UNKNOWN)
                now.files.append(name)
                now.results.append(result)
                stats.append(before)
            elif entry.is_dir(follow_symlinks=False):
                key = name + "/"
                why = judged.get(key)
                if why is None:
                    why = _bad_name(name) or rules.why_not(name, prefix + key, folder=True)
                now.names[key] = why
                if why:
                    self.skipped[f"{why} (folders)"] += 1
            else:
                now = now._replace(own="")
                if not entry.is_symlink():
                    self.skipped["not a plain file"] += 1
                elif not self._look_only:
                    self._link(entry, fd, prefix, rules)
        return self._count(fd, prefix, rules.weight, now._replace(stats="/".join(stats)), found), rules

    def _enter(self, fd: int, name: str, prefix: str, rules: Rules, depth: int) -> None:
        path = f"{prefix}{name}/"
        if depth == MAX_DEPTH or len(os.fsencode(f"{self.root}/{path}")) > _MAX_PATH:
            self.skipped["nested too deeply (folders)"] += 1
            return
        try:
            inner = os.open(name, _FOLDER, dir_fd=fd)
        except OSError as error:
            if error.errno in _FORBIDDEN:
                self.skipped["not readable (folders)"] += 1
            elif error.errno not in _GONE:
                raise
            return
        try:
            self._folder(inner, path, rules, depth + 1)
        finally:
            os.close(inner)

    def _count(self, fd: int, prefix: str, weight: float, known: Folder, found: Sequence[os.stat_result]) -> Folder:
        """Count a folder's files, whose stats are `found`: what is known of them now, the same if nothing changed."""
        paths = [prefix + name for name in known.files]
        self.seen += paths
        sizes = [one.st_size for one in found]
        looks = looks_of(found)
        if known.looks != looks or (sizes and max(sizes) > self._limit):
            stats, results = known.stats.split("/"), list(known.results)
            for at, one in enumerate(found):
                if stats[at] != signature(one) or one.st_size > self._limit:
                    stats[at], results[at] = self._examine(known.files[at], one, fd, paths[at])
            relied_on = all(stats) and max(sizes, default=0) <= self._limit
            known = known._replace(results=results, stats="/".join(stats), looks=looks if relied_on else 0)
        if weight == 1.0 and {*map(len, known.results)} == {64}:
            self.files.update(zip(paths, known.results, strict=True))
            self.sizes += sizes
            return known
        for path, size, result in zip(paths, sizes, known.results, strict=True):
            self._counts(path, size, result, weight)
        return known

    def _counts(self, path: str, size: int, result: str, weight: float) -> bool:
        """Count a file by what `_examine` said of its content; whether it is one of the source's."""
        if len(result) != 64:
            if result:
                self.skipped[result] += 1
            return False
        self.files[path] = result
        self.sizes.append(size)
        if weight != 1.0:
            self.weights[path] = weight
        return True

    def _examine(self, name: str, found: os.stat_result, fd: int | None, path: str) -> tuple[str, str]:
        """A file's signature, "" for none to rely on, and its digest or why it does not count; "" if it is gone."""
        for _ in range(3):
            if not stat.S_ISREG(found.st_mode):
                return "", "not a plain file"
            try:
                certain = settled(found)
                result = examine(name, found, self._limit, dir_fd=fd)
                # What depends on the limit is found out anew each time, which costs nothing.
                return signature(found) if certain and found.st_size <= self._limit else "", result
            except ChangedError:
                pass
            except OSError as error:
                if error.errno in _FORBIDDEN:
                    return "", "not readable"
                if error.errno not in _GONE:
                    raise unreadable(Path(f"{self._shown}/{shown_name(path)}"), error) from None
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                return "", ""
        raise DocumentError(
            "the file changes while it is read",
            where=Where(f"{self._shown}/{shown_name(path)}"),
            why="a build reads one state",
            do="stop what writes it, or exclude it",
        )

    def _link(self, entry: os.DirEntry[str], fd: int, prefix: str, rules: Rules) -> None:
        name, path = entry.name, prefix + entry.name
        why = _bad_name(name) or rules.why_not(name, path, folder=False)
        if self._links and not why:
            self.seen.append(path)  # whatever it leads to now
        target = self._links(f"{self.root}/{path}") if self._links and not why else ""
        if not target:
            self.skipped[why or "a link"] += 1
            return
        *folders, called = os.path.relpath(target, self.root).lower().split("/")
        hidden = not NEVER.isdisjoint(folders)
        if rules.defaults:
            hidden = hidden or not SECRETS.isdisjoint(folders) or excluded_by_default(called, folder=False)
        if hidden:
            self.skipped[BY_DEFAULT] += 1
            return
        try:
            found = os.stat(target, follow_symlinks=False)  # noqa: PTH116
        except OSError:
            self.skipped["a link"] += 1
            return
        result = self._examine(target, found, None, path)[1] or "a link"
        if self._counts(path, found.st_size, result, rules.weight):
            self.linked[path] = target

    def _configured(self, fd: int, prefix: str, rules: Rules) -> Rules:
        """The rules with those of the folder's own `.dlm`, if nothing is wrong with that."""
        try:
            return self._below(fd, prefix, rules)
        except DlmError as error:
            self.errors += error.errors if isinstance(error, InvalidDocument) else [error]
            self._look_only = True
            return rules

    def _below(self, fd: int, prefix: str, rules: Rules) -> Rules:
        shown = "/".join(filter(None, [self._shown, shown_name(prefix).rstrip("/"), ".dlm"]))
        stats = [_config_stat(name, fd, shown) for name in _CONFIG]
        self.seen += [f"{prefix}.dlm", *(f"{prefix}.dlm/{name}" for name, at in zip(_CONFIG, stats, strict=True) if at)]
        if not any(stats):
            return rules
        signatures = [found and signature(found) for found in stats]
        known = self._memory.config(prefix)
        if known is None or known[0] != signatures:
            yaml, patterns = (
                _config_file(name, fd, shown) if at else None for name, at in zip(_CONFIG, stats, strict=True)
            )
            data = read_config(yaml, patterns, shown)
            known = [signatures, sha256_json(data), data]
            if all(found is None or settled(found) for found in stats):
                self._memory.note_config(prefix, known)
        return rules.below(known[2], known[1], len(prefix))


def _config_stat(name: str, fd: int, folder: str) -> os.stat_result | None:
    """The stat of a configuration file; None only where there is none: one that cannot be read is not left aside."""
    try:
        found = os.stat(f".dlm/{name}", dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            try:
                os.stat(f".dlm/{name}", dir_fd=fd, follow_symlinks=False)
            except OSError:
                if _is_no_folder(fd):
                    what = "'.dlm' is no folder, or a link that leads nowhere"
                    raise DocumentError(what, where=Where(folder), do="delete it, or rename it") from None
                return None
        raise unreadable(Path(f"{folder}/{name}"), error) from None
    if not stat.S_ISREG(found.st_mode):
        raise DocumentError("not a plain file", where=Where(f"{folder}/{name}"), do="write a text file, or delete it")
    return found


def _is_no_folder(fd: int) -> bool:
    """Whether `.dlm` is there and cannot hold a configuration."""
    try:
        os.stat(".dlm", dir_fd=fd, follow_symlinks=False)
    except OSError:
        return False
    try:
        return not stat.S_ISDIR(os.stat(".dlm", dir_fd=fd).st_mode)
    except OSError:
        return True


def _config_file(name: str, fd: int, folder: str) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        with open(os.open(f".dlm/{name}", flags, dir_fd=fd), "rb") as file:  # noqa: PTH123 - in an open folder
            return file.read(4 * MAX_CHARACTERS)
    except OSError as error:
        raise unreadable(Path(f"{folder}/{name}"), error) from None


def _bad_name(name: str) -> str:
    """Why a name cannot be written down in a document's data; "" if it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    return ""
