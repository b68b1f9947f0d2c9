"""The file `<name>.dlm.pack`: a plain tar (POSIX.1-1988 ustar) with two kinds of members.

header.json          first: what the pack is, and sha256 and size of everything else
objects/<sha256>     the files, in the order of their digests

Members are named by content, so a name can say nothing else, and nothing is ever unpacked to where a name points.
Nothing is compressed (adapters hardly would be), so nothing can grow. The same document and adapter give the same
bytes: no time, owner, host or path stands in it.

Of a document's records the pack has those of its trainings, which are expensive; the rest is quickly made again. Bases,
exports, logs, times and the acceptance of licences stay at home. A record is a claim, "these rows on this base give
these weights", and whoever unpacks believes it of the packer; so it only counts for the document that the pack is of.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from dlmbuild.doc.mistakes import Mistakes
from dlmbuild.doc.names import check_name
from dlmbuild.errors import PackError, Where
from dlmbuild.export.adapter_gguf import CONFIG, WEIGHTS
from dlmbuild.io.digest import canonical_json
from dlmbuild.io.json_file import parse_json_object
from dlmbuild.io.ulid import is_ulid
from dlmbuild.pack.adapter import check_config, check_weights
from dlmbuild.store.layout import Home
from dlmbuild.store.records import Ingredients, Record

VERSION = 1
_HEADER = "header.json"
_MOST_HEADER_BYTES = 16 << 20
_PIECE = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_TRAININGS = ("train/", "prefer/")
"""Rules whose records a pack may hold."""
_TRAINED = {
    "adapter.json",
    CONFIG,
    WEIGHTS,
    "pinned_versions.json",
    "training_run.json",
    "training_state.pt",
    "training_state.pt.sha256",
}
"""What each training makes, see train/commit.py."""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in header.json."""

    dlm_id: str
    name: str
    """The document's, without `.dlm`."""
    document: str
    """Digest of the `.dlm` file, which is one of the objects."""
    records: tuple[Record, ...]
    objects: Mapping[str, int]
    """Digest → size in bytes of everything in the pack."""

    def as_data(self) -> dict[str, Any]:
        records = [record.as_data() for record in self.records]
        named = {"dlm_id": self.dlm_id, "name": self.name, "document": self.document}
        return {"pack": VERSION, **named, "records": records, "objects": dict(self.objects)}


def write_pack(header: Header, files: Mapping[str, Path], out: Path) -> None:
    """Write a pack; `files` has a path for each of the header's objects."""
    data = canonical_json(header.as_data())
    with out.open("wb") as pack:
        pack.write(_member(_HEADER, len(data)) + data + _padding(len(data)))
        for digest, size in sorted(header.objects.items()):
            pack.write(_member(f"objects/{digest}", size))
            with files[digest].open("rb") as file:
                while piece := file.read(_PIECE):
                    pack.write(piece)
            pack.write(_padding(size))
        pack.write(_END)


def read_pack(path: Path, into: Path | None, home: Home) -> tuple[Header, Mapping[str, bytes]]:
    """Check a whole pack; leave its objects as files named by digest in the folder `into`, if one is given.

    Also returns the contents of its document and of its small objects (under 1 MiB), and of its adapters' weights the
    beginning. Raises PackError for whatever is not as this module's text says, to the byte, and for an adapter that
    does not suit its base, if that is in the `home`.
    """
    with _in_words(path):
        with path.open("rb") as pack:
            header = _header(_first(pack))
            most = dict.fromkeys((record.outputs[WEIGHTS] for record in header.records), _MOST_HEADER_BYTES)
            most[header.document] = header.objects[header.document]
            small = {d: _object(pack, d, size, into, most.get(d, 0)) for d, size in sorted(header.objects.items())}
            if pack.read(len(_END) + 1) != _END:
                raise PackError("the pack does not end where its header says")
        _check_adapters(header, small, home)
    return header, small


def read_header(path: Path) -> Header:
    """What a pack says of itself; whether its objects are there is not looked at. Raises PackError, as `read_pack`."""
    with _in_words(path), path.open("rb") as pack:
        return _header(_first(pack))


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """For the block, whatever is wrong with the pack at `path` is a PackError that says where."""
    try:
        yield
    except PackError as error:
        error.where = Where(str(path))
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        do = "name the .dlm.pack file that `doit pack:NAME` has written"
        raise PackError("there is no such pack", where=Where(str(path)), why=error.strerror or "", do=do) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        # What no honest packer writes: something of another kind, or something that is not there.
        why = f"{type(error).__name__}: {error}"
        raise PackError("the pack cannot be understood", where=Where(str(path)), why=why) from None


def _member(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _first(pack: IO[bytes]) -> bytes:
    block = pack.read(_BLOCK)
    try:
        size = tarfile.TarInfo.frombuf(block, "ascii", "strict").size
    except (tarfile.TarError, ValueError):
        size = -1
    if size < 0 or block != _member(_HEADER, size):
        raise PackError("this is no pack", why=f"a pack begins with {_HEADER}")
    if size > _MOST_HEADER_BYTES:
        raise PackError(f"the header has {size} bytes", why=f"{_MOST_HEADER_BYTES} is the most that is read")
    return b"".join(_content(pack, size))


def _content(pack: IO[bytes], size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = pack.read(min(left, _PIECE))
        if not piece:
            raise PackError("the pack ends too early")
        left -= len(piece)
        yield piece
    if pack.read(-size % _BLOCK) != _padding(size):
        raise PackError("the pack is damaged between two of its files")


def _object(pack: IO[bytes], digest: str, size: int, into: Path | None, keep: int) -> bytes:
    block = pack.read(_BLOCK)
    if block != _member(f"objects/{digest}", size):
        raise PackError(f"objects/{digest} of {size} bytes is not where it belongs in the pack")
    found, kept = sha256(), b""
    file = (into / digest).open("wb") if into else None
    try:
        for piece in _content(pack, size):
            found.update(piece)
            if size < _PIECE or len(kept) < keep:
                kept += piece
            if file:
                file.write(piece)
    finally:
        if file:
            file.close()
    if found.hexdigest() != digest:
        raise PackError(f"objects/{digest} is damaged", why=f"its content has the digest {found.hexdigest()}")
    return kept


def _header(data: bytes) -> Header:
    found = parse_json_object(data, Where(_HEADER), PackError)
    if "pack" not in found:
        raise PackError(f"{_HEADER} does not describe a pack")
    if found["pack"] != VERSION or isinstance(found["pack"], bool):
        raise PackError(f"the pack has version {found['pack']!r}, this program reads {VERSION}", do="update dlmbuild")
    header = Header(
        dlm_id=_text(found["dlm_id"]),
        name=_text(found["name"]),
        document=_text(found["document"]),
        records=tuple(map(_record, found["records"])),
        objects={digest: _size(size) for digest, size in found["objects"].items()},
    )
    _check(header)
    return header


def _check(header: Header) -> None:
    mistakes = Mistakes(header.name)
    check_name(header.name, mistakes)
    if not is_ulid(header.dlm_id) or len(mistakes):
        raise PackError(f"{_HEADER} names no document", why=f"it says {header.name!r} with the id {header.dlm_id!r}")
    if any(len(digest) != 64 or set(digest) - set("0123456789abcdef") for digest in header.objects):
        raise PackError("the pack names an object by something else than a digest")
    strange = [r.ingredients.rule for r in header.records if not r.ingredients.rule.startswith(_TRAININGS)]
    if strange:
        raise PackError(f"the pack holds a record of {strange[0]!r}", why="a pack has records of trainings only")
    wanted = {header.document}.union(*(record.outputs.values() for record in header.records))
    if wanted != header.objects.keys() or any(record.outputs.keys() != _TRAINED for record in header.records):
        raise PackError("the pack's objects are not those that its document and trainings need")


def _check_adapters(header: Header, small: Mapping[str, bytes], home: Home) -> None:
    """What an adapter says of itself must be what its record says, and it must be a plain one that fits this."""
    for record in header.records:

        def said(name: str, outputs: Mapping[str, str] = record.outputs) -> dict[str, Any]:
            return parse_json_object(small[outputs[name]], Where(name), PackError)

        base, run = record.ingredients.params.get("base"), record.notes["run"]
        described = {"base": base, "files": {name: record.outputs[name] for name in (CONFIG, WEIGHTS)}}
        if warm := run.get("warm"):
            described["warm"] = {**{name: warm[name] for name in ("changed_rows", "chain")}, "steps": run["steps"]}
        if said("adapter.json") != described or said("training_run.json").get("base") != base:
            raise PackError("the adapter says of itself something else than the record of its training")
        config = said(CONFIG)
        check_config(config, base)
        weights = record.outputs[WEIGHTS]
        check_weights(small[weights], header.objects[weights], config, base, home)


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no size")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _record(data: Any) -> Record:
    inputs = {_text(role): _text(digest) for role, digest in data["inputs"].items()}
    outputs = {_text(name): _text(digest) for name, digest in data["outputs"].items()}
    notes, params = dict(data["notes"]), dict(data["params"])
    for name in ("run", "pins", "machine", "determinism", "recipe"):
        if not all(type(value) in (str, int, float, bool) for value in _flat(notes[name])):
            raise TypeError(f"a training's notes on {name} are not what they should be")
    return Record(Ingredients(_text(data["rule"]), inputs, params), outputs, notes)


def _flat(table: Any) -> Iterator[Any]:
    for value in table.values():
        yield from _flat(value) if isinstance(value, dict) else [value]
