"""Which names are left out: patterns as in a .gitignore (https://git-scm.com/docs/gitignore), and the defaults.

`pathspec` reads and matches the patterns; it is imported where a pattern has to be matched and not before.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from dlmbuild.doc.mistakes import Mistakes, shown

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MAX_PATTERNS = 1000
"""In one place; each is tried on each name."""
_MAX_CHARACTERS = 1000
_MAX_WILDCARDS = 3
"""Trying a pattern on a name takes time in the order of (length of the name) ** wildcards."""

_FOLDERS = """
    .tox .nox .venv venv .mypy_cache .pytest_cache .ruff_cache .hypothesis __pycache__ .eggs .ipynb_checkpoints
    node_modules bower_components target build dist __generated__ generated .gradle .idea .vscode .terraform
"""
SECRETS = frozenset((".ssh", ".gnupg", ".aws"))
"""Folders that are left out as well, and what links lead to in them."""
_NAMES = """
    .env .envrc .netrc .npmrc .pypirc .htpasswd .git-credentials .pgpass id_rsa id_dsa id_ecdsa id_ed25519
    id_ecdsa_sk id_ed25519_sk credentials credentials.json service-account.json
    package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml cargo.lock uv.lock poetry.lock pipfile.lock
    composer.lock gemfile.lock go.sum flake.lock dlm.lock .ds_store thumbs.db .git
"""
_ENDS = """
    .env .tfstate .pem .key .p12 .pfx .jks .keystore .kdbx .pyc .pyo .min.js .min.css .map .rlib .class .jar .o .a .so
    .dylib .dll .exe .ico .png .jpg .jpeg .gif .webp .bmp .tiff .wav .flac .ogg .mp3 .mp4 .pdf .zip .tar .gz .xz
    .bz2 .7z .zst .wasm .gguf .safetensors .sqlite .db
"""
_OURS = (".dlm.bak", ".dlm.before", ".dlm.pack")
"""In the names of what our own commands leave beside a document."""
_BEGINNINGS = (".env.", "secrets.", ".doit.db")
_LEFT_OUT = {kind: frozenset(words.split()) for kind, words in (("folder", _FOLDERS), ("name", _NAMES), ("end", _ENDS))}
_END = re.compile(r"(\.min)?\.[^.]*\Z")

_SET = re.compile(r"\\.|\[\^?\]?(\\.|[^\]\\])*\]", re.DOTALL)
"""An escaped character of a regular expression, or a set of characters."""

_FIXED = r"\\.|\[\^/\](?!\*)|(?:\(\?!/\))?\[(?!\^/\])\^?\]?(?:\\.|[^\]\\])*\]|[^\\()\[/*+?$^|]"
_STAR_AND_MORE = re.compile(rf"\[\^/\]\*((?:{_FIXED})+)(?=\[\^/\]\*)", re.DOTALL)
"""What `*` became in a regular expression, and what follows it in the same name up to the next `*`. Where that is found
first is the best place for it, so none of the others is tried: else a name takes time in its length cubed."""

_SPACES = re.compile(r"\A((?:[^\\]|\\.)*?) +\Z", re.DOTALL)
_WHITE = re.compile(r"\A((?:\[[!^]?+\]?+(?:\\.|[^\]\\])*\]|\\.|[^\\\[])*?)\\?([\t\v\f\x1c-\x1f])\Z", re.DOTALL)
"""Patterns that end in spaces without a backslash, or in other white space that is in no set."""
_STARS = re.compile(r"(\\.|\[[^]]*\])|\*+")

NEVER = frozenset((".git", ".hg", ".svn", ".dlm"))
"""Names of what is not content, a folder or (in a work tree of git) a file: nothing makes it a source."""


def excluded_by_default(name: str, *, folder: bool) -> bool:
    """Whether a file or folder of this name is a secret, vendored, generated or no text, wherever it lies."""
    name = name.lower()  # .ENV is .env on many a disk
    if folder:
        return name in _LEFT_OUT["folder"] or name in SECRETS or name.endswith(".egg-info")
    if name in _LEFT_OUT["name"] or name.startswith(_BEGINNINGS) or any(part in name for part in _OURS):
        return True
    end = _END.search(name)
    ends = _LEFT_OUT["end"]
    return end is not None and (end[0] in ends or end[0].removeprefix(".min") in ends)


class Patterns:
    """Patterns without mistakes, of which the last that matches decides.

    Paths are relative to where the patterns stand, with `/` between names and after the name of a folder.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._spec = _spec(patterns)
        self._last_first = [(p.regex, p.include) for p in reversed(list(self._spec.patterns)) if p.regex]

    def verdict(self, path: str) -> bool | None:
        """True where the path matches, False where a `!` takes it out again, None where nothing is said of it.

        The folders above it have been judged before: a pattern that matches only one of them says nothing.
        """
        path = _in_bytes(path)
        return next((include for regex, include in self._last_first if _is_meant(regex, path)), None)

    def cover(self, path: str) -> bool:
        """Whether the path, or a folder above it, matches and is not taken out again."""
        return self._spec.match_file(_in_bytes(path))


def _in_bytes(text: str) -> str:
    """A path or a pattern as git compares them: each byte of a letter such as é stands for itself."""
    # No pattern can spell a line end, and a regular expression's "." and "$" treat it apart.
    text = text.replace("\n", "\x7f")
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("ascii", "surrogateescape")


def _is_meant(regex: re.Pattern[str], path: str) -> bool:
    """Whether the path itself matches. In pathspec's expressions the group is the end of a folder's name."""
    match = regex.search(path)
    if match is None:
        return False
    if regex.pattern == "(?P<ps_d>/)":
        return path.endswith("/")
    if match.re.groups and match["ps_d"]:
        return match.end() == len(path)
    return not (regex.pattern.endswith("/") and match.end() == len(path))  # `a/**` is what lies in a


@lru_cache(maxsize=256)
def compiled(patterns: tuple[str, ...]) -> Patterns:
    """Matcher of patterns that were checked before."""
    return Patterns(patterns)


class Refusal(NamedTuple):
    """What is wrong with a pattern."""

    what: str
    why: str
    do: str


def refusal(pattern: str) -> Refusal | None:
    """What is wrong with a pattern; None for a good one, or a blank line. Comments are for files: here they are none.

    A pattern that would match nothing is refused: what it was to keep out would be let in.
    """
    if not pattern.strip(" "):
        return None
    what = f"the pattern {shown(pattern)}"
    if pattern.startswith("#"):
        return Refusal(what, "what begins with # is a comment", f"write \\{pattern}, or delete it")
    if "\0" in pattern or "\n" in pattern or "\r" in pattern:
        return Refusal(what, "no name has these characters", "delete them")
    if len(pattern) > _MAX_CHARACTERS:
        return Refusal(what, f"it has more than {_MAX_CHARACTERS} characters", "shorten it")
    if _wildcards(pattern) > _MAX_WILDCARDS:
        why = f"it has more than {_MAX_WILDCARDS} wildcards, with which a long name takes very long to match"
        return Refusal(what, why, "shorten it, or write several patterns")
    if "[[:" in pattern or re.search(r"(?<!\\)\[[^]]*\\", pattern):
        return Refusal(what, "in [ ] stand plain characters and ranges", "write [A-Za-z] for [[:alpha:]]")
    if re.search(r"(?<!\\)\[[!^]?\]?[^]]*[^\0-\x7f]", pattern):
        why = "[ ] stands for one byte, as in git, and this is a letter of several"
        return Refusal(what, why, "write * in its place, or one pattern for each letter")
    if proper := _without_empty_names(pattern):
        return Refusal(what, "no name is empty, . or .., so it matches nothing", f"write {proper}")
    if _matches_nothing(pattern):
        return Refusal(what, "it matches no name", "mend it; \\ stands before [ ] \\ ! # that are meant as they are")
    return None


def read_ignore(text: str, mistakes: Mistakes) -> list[str]:
    """The patterns of a `.dlm/ignore` file, one a line, comments and blank lines left off."""
    patterns: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip(" ") or line.startswith("#"):
            continue
        wrong = refusal(line)
        if wrong:
            mistakes.add(number, 1, wrong.what, why=wrong.why, do=wrong.do)
        elif len(patterns) == MAX_PATTERNS:
            mistakes.add(number, 1, f"more than {MAX_PATTERNS} patterns", do="put some of them together")
            break
        else:
            patterns.append(line)
    return patterns


def _wildcards(pattern: str) -> int:
    inner = re.sub(r"\A!?/?(\*\*/)+|(/\*\*)+/?\Z", "", pattern)  # at either end they cost nothing
    return len(re.findall(r"\*+", inner))


def _spec(patterns: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    class Pattern(GitIgnoreSpecPattern):
        """In which [!a] and [.-0] are no `/`, as in git."""

        @classmethod
        def pattern_to_regex(cls, pattern: Any) -> tuple[Any, bool | None]:
            regex, include = super().pattern_to_regex(pattern)
            return regex and _STAR_AND_MORE.sub(r"(?>[^/]*?\1)", _SET.sub(_without_slash, regex)), include

    # One way to match, whatever else is installed.
    return GitIgnoreSpec.from_lines(map(_prepared, patterns), Pattern, backend="simple")


def _prepared(pattern: str) -> str:
    """A pattern that pathspec reads as git reads this one.

    Only a whole name is `**`: elsewhere several stars mean what one does. At the end only spaces are left off.
    """
    pattern = _in_bytes(_SPACES.sub(r"\1", pattern))
    pattern = _WHITE.sub(lambda end: f"{end[1]}[{end[2]}]", pattern)
    no, rest = ("!", pattern[1:]) if pattern.startswith("!") else ("", pattern)
    names = rest.split("/")
    for at, name in enumerate(names):
        whole = set(name) == {"*"} and len(name) > 1
        names[at] = "**" if whole else _STARS.sub(lambda run: run[1] or "*", name)
    return no + "/".join(names)


def _without_slash(part: re.Match[str]) -> str:
    # [^/] is pathspec's own: what `*` and `?` stand for.
    return part[0] if part[0].startswith("\\") or part[0] == "[^/]" else f"(?!/){part[0]}"


def _without_empty_names(pattern: str) -> str:
    """The pattern as it was probably meant, where it has names that no file has; empty where it has none of them."""
    no, rest = ("!", pattern[1:]) if pattern.startswith("!") else ("", pattern)
    first, *names = rest.rstrip(" ").split("/")
    last = names.pop() if names else None
    if not any(name in ("", ".", "..") for name in names) and first not in (".", "..") and last not in (".", ".."):
        return ""
    if ".." in (first, *names, last):
        return "the path from this folder on, without .."
    kept = [name for name in (first, *names, last or "") if name not in ("", ".")]
    at_root = "/" if first in ("", ".") and len(kept) == 1 else ""
    return no + at_root + "/".join(kept) + "/" * (last == "") if kept else "* for everything"


def _matches_nothing(pattern: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a set that Python finds doubtful is not what was meant
        try:
            (compiled,) = _spec([pattern]).patterns
        except (ValueError, re.error, Warning, OverflowError):
            return True
    return compiled.include is None or pattern.strip() == "!/"
