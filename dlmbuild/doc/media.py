"""The files of images and recordings."""

from __future__ import annotations

from pathlib import Path

from dlmbuild.doc.mistakes import shown
from dlmbuild.errors import DocumentError
from dlmbuild.io.digest import sha256_file


def blob_sha256(path: str, folder: Path) -> str:
    """Digest of a media file; `path` as the document has it, `folder` the document's. Raises DocumentError."""
    what, do = f"the file {shown(path)} cannot be read", "mend the path, which begins at the document's folder"
    file = folder / path
    try:
        if not file.is_file():
            raise DocumentError(what, why="it is no file" if file.exists() else "there is none", do=do)
        return sha256_file(file)
    except OSError as error:
        raise DocumentError(what, why=error.strerror or str(error), do=do) from None
