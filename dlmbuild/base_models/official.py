"""llama.cpp's own converter, for the architectures that `families` lacks.

It is taken from the source package of the pinned xllamacpp, so that it writes what that runtime reads. Of the package,
which pip could only fetch together with an hour of compiling, the scripts alone are unpacked, into a folder of their
own; the digests of the package and of what is unpacked are written here, so no index has to be trusted. They bring
their own `gguf` along, which other code must not see: they run as a process.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

from dlmbuild.base_models.package import PACKAGES_VARIABLE, require_digest
from dlmbuild.errors import BaseModelError, DlmError
from dlmbuild.io.atomic import staging_folder
from dlmbuild.io.digest import sha256_file
from dlmbuild.io.progress import Progress
from dlmbuild.store.layout import Home

VERSION = "2026.10.11549"
PACKAGE_SHA256 = "c17ee1163006f70726abb9f72137830818f3d8cb60bfc34cb232d08428eaa22b"
SCRIPTS_SHA256 = "a2c2058ace946393e7cbbd9678801a2796e2ba8f27c0828444c178763f518971"
"""Of everything that is unpacked: see `_digest`."""

_PACKAGE = f"xllamacpp-{VERSION}.tar.gz"
_INSIDE = PurePosixPath(f"xllamacpp-{VERSION}/thirdparty/llama.cpp")
_FOLDERS = (PurePosixPath("conversion"), PurePosixPath("gguf-py/gguf"))
_FILES = (PurePosixPath("convert_hf_to_gguf.py"), PurePosixPath("convert_lora_to_gguf.py"))
_LARGEST_PACKAGE = 200_000_000
_LARGEST_SCRIPT = 4_000_000
_CHUNK = 1 << 20
_START = """
import runpy, sys
folder, pre, script, *words = sys.argv[1:]
sys.path[:0] = [f"{folder}/gguf-py", folder]
from conversion.base import TextModel
read = TextModel._create_vocab_sentencepiece
def read_if_there(self):
    if not (self.dir_model / "tokenizer.model").is_file():
        raise FileNotFoundError("tokenizer.model")
    return read(self)
TextModel._create_vocab_sentencepiece = read_if_there
if pre:
    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = [script, *words]
runpy.run_path(f"{folder}/{script}", run_name="__main__")
"""
"""Starts a script, changed in two things: the package sentencepiece is asked for only where there is something to read
with it, and the name of a pre-tokenizer that is known need not be found out by what it makes of one text."""


def facts() -> dict[str, str]:
    """What to record of the converter."""
    return {"name": _PACKAGE, "sha256": PACKAGE_SHA256, "scripts": SCRIPTS_SHA256}


def run(
    script: str,
    *words: str,
    progress: Progress,
    pre: str = "",
    advice: str = "",
    error: type[DlmError] = BaseModelError,
) -> None:
    """Run one of the scripts, fetched if it is not there yet; `pre` is the pre-tokenizer's name, if it is known.

    Raises BaseModelError if it cannot be had, and `error` with its last words if it fails; `advice` is what to do
    about a pre-tokenizer that it does not know.
    """
    folder = _scripts(progress)
    done = subprocess.run(
        [sys.executable, "-c", _START, str(folder), pre, script, *words],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    sys.stderr.write(done.stderr)  # into the job's log
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        raise error(
            "llama.cpp's converter cannot convert this base",
            why=f"{script} of {_PACKAGE} says: {said[-1]} (exit code {done.returncode})",
            do="take another base" + (f", {advice}" if advice and "pre-tokenizer" in said[-1] else ""),
        )


def _scripts(progress: Progress) -> Path:
    """The folder of the scripts, complete and as they are known."""
    folder = Home.default().converter(VERSION)
    if folder.is_dir() and _digest(folder) == SCRIPTS_SHA256:
        return folder
    with staging_folder(folder.parent) as staging:
        package = _provided() or _download(staging / _PACKAGE, progress)
        require_digest(package, PACKAGE_SHA256, _PACKAGE)
        fresh = staging / "scripts"
        _unpack(package, fresh)
        if folder.exists():
            folder.rename(staging / "damaged")
        with suppress(OSError):  # another job was faster
            fresh.rename(folder)
    return folder


def _provided() -> Path | None:
    named = os.environ.get(PACKAGES_VARIABLE)
    if not named:
        return None
    package = Path(named).expanduser() / _PACKAGE
    if not package.is_file():
        raise _missing(f"{PACKAGES_VARIABLE} names {named} as the only place for packages, and it is not there")
    return package


def _download(goal: Path, progress: Progress) -> Path:
    settings = _pip_settings()
    indexes = [settings.get("index-url", "https://pypi.org/simple"), *settings.get("extra-index-url", "").split()]
    context = ssl.create_default_context(cafile=settings.get("cert"))
    problem = "no package index has it"
    for index in (index for index in indexes if index.startswith(("https://", "http://"))):
        try:
            url = _look_up(index, context)
            if url:
                _fetch(url, goal, context, progress)
                return goal
        except (OSError, ValueError) as error:  # HTTP, TLS and time-outs are kinds of OSError
            problem = f"{index}: {error}"
    raise _missing(problem)


def _look_up(index: str, context: ssl.SSLContext) -> str | None:
    page = index.rstrip("/") + "/xllamacpp/"
    asked = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.5"})
    with urllib.request.urlopen(asked, timeout=60, context=context) as reply:
        text, base = reply.read(_CHUNK * 16).decode(), reply.url
    if text.lstrip().startswith("{"):
        files: Any = json.loads(text).get("files")
        links = [str(file.get("url")) for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    else:
        parser = _Links()
        parser.feed(text)
        links = parser.links
    found = (urllib.parse.urljoin(base, link) for link in links)
    return next((url for url in found if urllib.parse.urlsplit(url).path.endswith(f"/{_PACKAGE}")), None)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _fetch(url: str, goal: Path, context: ssl.SSLContext, progress: Progress) -> None:
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"the index names {url!r}")
    with urllib.request.urlopen(url, timeout=60, context=context) as reply, goal.open("wb") as file:
        total, done = int(reply.headers.get("Content-Length") or 0), 0
        while chunk := reply.read(_CHUNK):
            done += len(chunk)
            if done > _LARGEST_PACKAGE:
                raise ValueError(f"{url} has more than {_LARGEST_PACKAGE} bytes")
            file.write(chunk)
            progress(f"downloading {_PACKAGE}", done, total)


def _pip_settings() -> dict[str, str]:
    """What pip is told, by option: variables of the environment win, then its own command, then what is global."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, cwd="/", check=False
    )
    settings = {}
    for scope in ("global", "download", ":env:"):
        for line in asked.stdout.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(f"{scope}."):
                settings[key.removeprefix(f"{scope}.")] = value.strip().strip("'\"")
    return settings


def _unpack(package: Path, goal: Path) -> None:
    with tarfile.open(package) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not path.is_relative_to(_INSIDE) or ".." in path.parts or not member.isfile():
                continue
            path = path.relative_to(_INSIDE)
            if path.suffix != ".py" or not (path in _FILES or any(path.is_relative_to(one) for one in _FOLDERS)):
                continue
            source = archive.extractfile(member)
            if source is None or member.size > _LARGEST_SCRIPT:
                raise BaseModelError(f"{package.name} cannot be used", why=f"{member.name} has {member.size} bytes")
            (goal / path).parent.mkdir(parents=True, exist_ok=True)
            (goal / path).write_bytes(source.read())


def _digest(folder: Path) -> str:
    """The sha256 of all names and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{sha256_file(path)} {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def _missing(why: str) -> BaseModelError:
    return BaseModelError(
        f"llama.cpp's converter ({_PACKAGE}) could not be fetched, which this base's architecture needs",
        why=why,
        do=f"build once where there is a network, or put that file of the package index into a folder and set "
        f"{PACKAGES_VARIABLE} to it; or take a base of another architecture",
    )
