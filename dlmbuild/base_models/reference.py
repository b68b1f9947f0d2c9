"""What the `base_model` line of a document names.

    smollm2-135m               a row of the registry: its package if it has one, else the hub
    smollm2-135m@hub           the hub's copy of a row that has a package
    hf:org/name@revision       a model of the hub at a commit, tag or branch
    file:./folder              a checkpoint folder; relative paths start at the document
    gguf:./file.gguf           a GGUF file, dequantised to a checkpoint

Only the standard library: references are parsed whenever a build graph is loaded. Nothing is looked up in the network
for it, and of what lies on this disk no more than that it is there.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dlmbuild.errors import BaseModelError
from dlmbuild.io.digest import JSON, sha256_bytes

if TYPE_CHECKING:
    from dlmbuild.base_models.registry import Recipe, Row

Kind = Literal["package", "hub", "folder", "gguf"]

# Plain strings: compiled where one is needed, which an up-to-date build never does.
_HUB_ID = r"(?a)(?!.{97})(?!.*(?:--|\.\.|\.git$))\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?"
_REVISION = r"(?a)(?!.*\.\.)[A-Za-z0-9][\w./-]{0,199}"
_LOCAL: dict[str, Kind] = {"file": "folder", "gguf": "gguf"}
_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Reference:
    """One base, and where it comes from. Two spellings of one source are equal in everything but `text`."""

    text: str
    """As the document has it."""
    kind: Kind
    key: str
    """A name for tasks and folders, of A-Z a-z 0-9 . _ - only; different references have different keys."""
    row: str | None = None
    """The key of the registry row, if the document names one."""
    id: str = ""
    """hub: org/name."""
    revision: str = ""
    """hub: the commit, tag or branch that is asked for."""
    path: Path | None = None
    """folder, gguf: absolute."""
    pinned: str = ""
    """package: name, version and digest of what is taken out of it."""

    def as_data(self) -> dict[str, JSON]:
        """The reference as JSON data, to remember it or to hand it to a job."""
        return {**asdict(self), "path": None if self.path is None else str(self.path)}

    @classmethod
    def from_data(cls, data: dict[str, JSON]) -> Reference:
        """The inverse of `as_data`."""
        return cls(**{**data, "path": None if data["path"] is None else Path(data["path"])})

    @property
    def landmark(self) -> Path | None:
        """The file by which a base on this disk is known to be there; None for any other base."""
        return self.path / "config.json" if self.kind == "folder" and self.path else self.path

    @property
    def known(self) -> Row | None:
        """The registry row that knows this model, by key or by its id on the hub; None for any other model."""
        from dlmbuild.base_models.registry import row, row_of_model

        return row(self.row) if self.row is not None else row_of_model(self.id)

    @property
    def recipe(self) -> Recipe:
        """The training defaults for this base: the measured ones where there are any."""
        from dlmbuild.base_models.registry import default_recipe

        return self.known.recipe if self.known else default_recipe()


def parse_reference(text: str, folder: Path) -> Reference:
    """What `text` names; `folder` is where relative paths start, the document's.

    Raises BaseModelError for an unknown registry key (with the nearest ones) and for anything that is badly written.
    """
    if not text.isprintable() or not text.strip():
        raise BaseModelError(
            f"{text!r} names no base model",
            why="it is empty or holds characters that cannot be seen",
            do="write a registry key such as smollm2-135m, or hf:org/name@revision, file:./folder, gguf:./file.gguf",
        )
    scheme, colon, rest = text.partition(":")
    if not colon:
        return _known(text)
    if scheme == "hf":
        return _on_hub(text, rest)
    if scheme in _LOCAL:
        return _local(text, scheme, rest, folder)
    raise BaseModelError(
        f"unknown kind of base model {scheme + ':'!r} in {text!r}",
        why="bases come from the registry, hf:, file: or gguf:",
        do="write a registry key such as smollm2-135m, or hf:org/name@revision, file:./folder, gguf:./file.gguf",
    )


def present_reference(text: str, folder: Path) -> Reference:
    """`parse_reference`, refused as well where the disk has nothing of the kind. Raises BaseModelError."""
    reference = parse_reference(text, folder)
    require_present(reference)
    return reference


def require_present(reference: Reference) -> None:
    """Refuse a folder or a GGUF file that is not there or is another thing, by a look of microseconds.

    Raises BaseModelError.
    """
    path, landmark = reference.path, reference.landmark
    if path is None or landmark is None:
        return
    try:
        if reference.kind == "folder" and not path.is_dir():
            raise _absent(reference, path)
        if reference.kind == "folder" and not landmark.is_file():
            there = landmark.exists() or landmark.is_symlink()
            raise BaseModelError(
                f"{reference.text!r} is no checkpoint",
                why=f"{landmark} is not a regular file" if there else f"{path} has no config.json",
                do="name the folder that holds the model's files",
            )
        if reference.kind == "gguf" and not path.is_file():  # a pipe would be waited for
            raise _absent(reference, path)
        if reference.kind == "gguf" and (start := _start(path)) != _MAGIC:
            begins = f"begins with {start!r}, not with {_MAGIC!r}" if start else "is empty"
            why, do = f"{path} {begins}", "fetch the file again, or write the path of another"
            raise BaseModelError(f"{reference.text!r} is no GGUF file", why=why, do=do)
    except OSError as error:
        raise BaseModelError(
            f"{reference.text!r} cannot be read",
            why=f"{path}: {error.strerror or error}",
            do="see to its permissions, or write another path",
        ) from None


def _absent(reference: Reference, path: Path) -> BaseModelError:
    scheme, _, rest = reference.text.partition(":")
    file = scheme == "gguf"
    wanted = "a GGUF file" if file else "a folder with config.json, tokenizer.json and model.safetensors"
    do = f"write the path of {wanted}; relative paths start at the document"
    if path.is_dir():
        found = "is a folder"
        do = f"write file:{rest}" if (path / "config.json").is_file() else do
    elif path.is_file():
        found = "is a file"
        do = f"write gguf:{rest}" if _start(path) == _MAGIC else do
    else:
        found = "is neither a folder nor a file" if path.exists() else "does not exist"
    return BaseModelError(f"{reference.text!r} names no {'file' if file else 'folder'}", why=f"{path} {found}", do=do)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_MAGIC))


def _known(text: str) -> Reference:
    key, at, source = text.partition("@")
    if re.fullmatch(_HUB_ID, key):
        raise BaseModelError(
            f"unknown base model {text!r}",
            why="a model of the hub is written with hf: and pinned to a revision",
            do=f"write {_pinned(key)}" if not source else f"write hf:{text}",
        )
    if text.startswith((".", "~", "/")) or text.endswith(".gguf"):
        scheme = "gguf" if text.endswith(".gguf") else "file"
        raise BaseModelError(
            f"unknown base model {text!r}",
            why="a file or folder is written with its kind in front",
            do=f"write {scheme}:{text}",
        )
    from dlmbuild.base_models.registry import row

    known = row(key)
    if at and source != "hub":
        raise BaseModelError(
            f"unknown source {source!r} of base model {key!r}",
            why="behind a registry key only @hub can be written: the registry pins the revision",
            do=f"write {key}, {key}@hub, or another revision as hf:{known.id}@{source or 'revision'}",
        )
    if known.package and not at:
        package = known.package
        pinned = f"{package.name}=={package.version} {package.member_sha256}"
        return Reference(text=text, kind="package", key=key, row=key, pinned=pinned)
    # Without a package `<key>` is the hub's copy already, so that both spellings share one folder.
    name = f"{key}-hub" if known.package else key
    return Reference(text=text, kind="hub", key=name, row=key, id=known.id, revision=known.revision)


def _on_hub(text: str, rest: str) -> Reference:
    hub_id, _, revision = rest.partition("@")
    if not re.fullmatch(_HUB_ID, hub_id):
        raise BaseModelError(
            f"{text!r} names no model of the hub",
            why=f"{hub_id!r} is not of the form org/name",
            do="write hf:org/name@revision, for example hf:HuggingFaceTB/SmolLM2-360M-Instruct@main",
        )
    if not revision:
        raise BaseModelError(
            f"{text!r} has no revision",
            why="a build must not change because somebody uploaded something",
            do=f"write {_pinned(hub_id)}",
        )
    if not re.fullmatch(_REVISION, revision):
        raise BaseModelError(
            f"{revision!r} in {text!r} is no revision",
            why="a revision is a commit of 40 hex digits, a tag or a branch",
            do=f"write {_pinned(hub_id)}",
        )
    key = f"hf-{_slug(hub_id)}-{_hash(f'hf:{hub_id}@{revision}')}"
    return Reference(text=text, kind="hub", key=key, id=hub_id, revision=revision)


def _local(text: str, scheme: str, rest: str, folder: Path) -> Reference:
    if not rest.strip() or rest.startswith("//"):
        raise BaseModelError(
            f"{text!r} names no file",
            why="a path must follow the colon" if not rest.strip() else "this is a path, not a URL",
            do=f"write {scheme}:./name for something beside the document, or {scheme}:/an/absolute/path",
        )
    try:
        path = (folder / Path(rest).expanduser()).resolve()
    except (RuntimeError, OSError, ValueError) as error:  # unknown home folder, a circle of links
        raise BaseModelError(
            f"the path in {text!r} cannot be followed", why=str(error), do="write another path to the same place"
        ) from None
    key = f"{scheme}-{_slug(path.stem if scheme == 'gguf' else path.name)}-{_hash(f'{scheme}:{path}')}"
    return Reference(text=text, kind=_LOCAL[scheme], key=key, path=path)


def _pinned(hub_id: str) -> str:
    from dlmbuild.base_models.registry import row_of_model

    known = row_of_model(hub_id)
    if known:
        return f"{known.key}@hub" if known.package else known.key
    return (
        f"hf:{hub_id}@<commit> with the commit from https://huggingface.co/{hub_id}/commits/main, "
        f"or hf:{hub_id}@main for what is there when it is first built"
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "base"


def _hash(text: str) -> str:
    return sha256_bytes(text.encode("utf-8", "surrogateescape"))[:8]
