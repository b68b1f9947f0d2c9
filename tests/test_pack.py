"""Packs through the command line: there and back, the same bytes everywhere, and hostile ones."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.workshop import Workshop, empty_workshop

pytestmark = pytest.mark.model


@pytest.fixture
def packed(built: Workshop) -> Workshop:
    assert built.doit("pack:tower").steps == ["pack:tower"]
    return built


@pytest.fixture
def elsewhere(packed: Workshop, tmp_path: Path) -> Workshop:
    """A project without documents, with a home of its own, on which the base lies."""
    other = empty_workshop(tmp_path / "elsewhere")
    shutil.copytree(packed.folder / "base", other.folder / "base")
    shutil.copy(packed.folder / "tower.dlm.pack", tmp_path / "tower.dlm.pack")
    return other


def test_what_is_unpacked_is_exported_without_training(packed: Workshop, elsewhere: Workshop) -> None:
    said = elsewhere.dlm("unpack", "../../tower.dlm.pack").out
    assert "doit export:tower" in said and "not in the pack" in said
    assert (elsewhere.folder / "tower.dlm").read_bytes() == (packed.folder / "tower.dlm").read_bytes()
    ran = elsewhere.doit("export:Q4_K_M")
    assert "train:tower" in ran.restored and "train:tower" not in ran.steps
    for name in ("adapter_model.safetensors", "training_state.pt"):
        (mine,) = packed.store.glob(f"adapter/versions/*/{name}")
        (theirs,) = elsewhere.store.glob(f"adapter/versions/*/{name}")
        assert mine.read_bytes() == theirs.read_bytes()
    elsewhere.doit("pack")  # and passed on as it came
    assert (elsewhere.folder / "tower.dlm.pack").read_bytes() == (packed.folder / "tower.dlm.pack").read_bytes()
    assert "everything is up to date" in elsewhere.doit("pack").out


def test_packs_of_two_homes_are_the_same_bytes(packed: Workshop, tmp_path: Path) -> None:
    other = Workshop(tmp_path / "other", tmp_path / "home2")
    shutil.copytree(packed.folder, other.folder)
    for path in (other.folder / ".doit.db", other.folder / "tower.dlm.pack"):
        path.unlink()
    assert "train:tower" in other.doit("pack").steps
    assert (other.folder / "tower.dlm.pack").read_bytes() == (packed.folder / "tower.dlm.pack").read_bytes()


def test_a_pack_follows_its_document_and_is_cleaned_alone(packed: Workshop) -> None:
    assert packed.doit("pack").steps == []
    packed.edit("tower", "# The lighthouse", "# The  lighthouse")
    assert "pack:tower" in packed.doit("pack").steps
    packed.doit("clean", "pack")
    assert not (packed.folder / "tower.dlm.pack").exists()
    assert (packed.folder / "tower.dlm").exists() and (packed.store / "adapter" / "current.txt").exists()
    assert packed.doit("pack").restored == ["pack:tower"]


def test_files_of_the_person_stay_where_they_are(packed: Workshop) -> None:
    (packed.folder / ".env.staging").write_text("mine")
    packed.edit("tower", "# The lighthouse", "# The  lighthouse")
    packed.doit("pack")
    assert (packed.folder / ".env.staging").read_text() == "mine"


def test_a_document_that_is_here_is_never_overwritten_unasked(elsewhere: Workshop) -> None:
    (elsewhere.folder / "tower.dlm").write_text("mine")
    refused = elsewhere.dlm("unpack", "../../tower.dlm.pack", code=1).err
    assert "tower.dlm is here already" in refused and "--force" in refused
    assert (elsewhere.folder / "tower.dlm").read_text() == "mine"
    elsewhere.dlm("unpack", "--force", "../../tower.dlm.pack")
    assert (elsewhere.folder / "tower.dlm.before").read_text() == "mine"
    (elsewhere.folder / "tower.dlm").write_text("mine again")
    elsewhere.dlm("unpack", "--force", "../../tower.dlm.pack")
    assert (elsewhere.folder / "tower.dlm.before").read_text() == "mine"
    assert (elsewhere.folder / "tower.dlm.before2").read_text() == "mine again"
    (elsewhere.folder / "tower.dlm").rename(elsewhere.folder / "cottage.dlm")
    assert "cottage.dlm is the same document" in elsewhere.dlm("unpack", "../../tower.dlm.pack", code=1).err


def test_an_unpacked_training_counts_for_its_own_document_alone(packed: Workshop, elsewhere: Workshop) -> None:
    elsewhere.dlm("unpack", "../../tower.dlm.pack")
    (elsewhere.folder / "tower.dlm").unlink()
    elsewhere.document("tower")  # the same text under another id: its training has the same key
    assert "train:tower" in elsewhere.doit("train").steps


Edit = Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname, info.size = "/etc/passwd", 0
    return info, content


def header(**changes: object) -> Edit:
    def edit(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        data = {**json.loads(members[0][1]), **changes}
        members[0] = member("header.json", json.dumps(data).encode())

    return edit


def record(**changes: object) -> Edit:
    def edit(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        data = json.loads(members[0][1])
        data["records"][0] |= changes
        members[0] = member("header.json", json.dumps(data).encode())

    return edit


def replaced(at: int, *new: tuple[tarfile.TarInfo, bytes]) -> Edit:
    def edit(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[at : at + 1] = list(new)

    return edit


HOSTILE: dict[str, tuple[Edit, str]] = {
    "another version": (header(pack=2), "version 2"),
    "no version": (header(pack=None), "version None"),
    "an id that leads out": (header(dlm_id="../../x"), "names no document"),
    "a name that leads out": (header(name="../tower"), "names no document"),
    "a reserved name": (header(name="export"), "names no document"),
    "another document's id": (header(dlm_id="01HZX3Q5J8K9M2N4P6R8T0V2W4"), "another one than its header says"),
    "a record of another step": (record(rule="base/3"), "trainings only"),
    "an output that leads out": (record(outputs={"../x": "0" * 64}), "not those"),
    "a record without notes": (record(notes={}), "cannot be understood"),
    "a record that is no record": (header(records=[3]), "cannot be understood"),
    "an object that is missing": (lambda m: m.pop(), "is not where it belongs"),
    "one object too many": (lambda m: m.append(member("objects/" + "0" * 64, b"")), "does not end"),
    "a fractional size": (header(objects={"0" * 64: 1.5}), "cannot be understood"),
    "an endless size": (
        lambda m: m.__setitem__(
            0, member("header.json", m[0][1].replace(b'"objects":{', b'"objects":{"a":Infinity,', 1))
        ),
        "not sound JSON",
    ),
    "notes that no lock can hold": (
        lambda m: record(notes={**json.loads(m[0][1])["records"][0]["notes"], "machine": {"isa": [None]}})(m),
        "cannot be understood",
    ),
    "an output that is missing": (
        lambda m: record(outputs=dict(list(json.loads(m[0][1])["records"][0]["outputs"].items())[1:]))(m),
        "not those",
    ),
    "another content": (
        lambda m: m.__setitem__(1, member(m[1][0].name, bytes([m[1][1][0] ^ 1]) + m[1][1][1:])),
        "is damaged",
    ),
    "another size": (lambda m: m.__setitem__(1, member(m[1][0].name, m[1][1] + b"x")), "belongs"),
    "an absolute name": (lambda m: m.__setitem__(1, member("/tmp/x", m[1][1])), "belongs"),
    "a symbolic link": (lambda m: m.__setitem__(1, member(m[1][0].name, b"", tarfile.SYMTYPE)), "belongs"),
    "a hard link": (lambda m: m.__setitem__(1, member(m[1][0].name, b"", tarfile.LNKTYPE)), "belongs"),
    "a device": (lambda m: m.__setitem__(1, member(m[1][0].name, b"", tarfile.CHRTYPE)), "belongs"),
    "no header": (replaced(0), "begins with header.json"),
    "a header that is no JSON": (replaced(0, member("header.json", b"{")), "not sound JSON"),
    "a size beyond all tapes": (header(objects={"0" * 64: 2**40}), "not those"),
    "a number that is none": (
        lambda m: m.__setitem__(0, member("header.json", m[0][1].replace(b'"params":{', b'"params":{"x":1e999,', 1))),
        "cannot be understood",
    ),
    "half a character": (
        lambda m: m.__setitem__(0, member("header.json", m[0][1].replace(b'"params":{', b'"params":{"\\ud800":1,', 1))),
        "cannot be understood",
    ),
    "a deep header": (replaced(0, member("header.json", b"[" * 100_000)), "not sound JSON"),
}


@pytest.fixture(scope="module")
def pack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import make_tiny_base

    shop = empty_workshop(tmp_path_factory.mktemp("packed"))
    make_tiny_base(shop.folder / "base")
    shop.document("tower")
    shop.doit("pack")
    return shop.folder / "tower.dlm.pack"


def test_hostile_packs_are_refused_in_words_and_leave_nothing(pack_file: Path, tmp_path: Path) -> None:
    with tarfile.open(pack_file) as tar:
        good = [(member(info.name, b""), tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    good = [member(info.name, content) for (info, _), content in good]
    for what, (edit, told) in HOSTILE.items():
        members = [member(info.name, content) for info, content in good]
        edit(members)
        shop = empty_workshop(tmp_path / sha256(what.encode()).hexdigest()[:8])
        path = shop.folder / "x.dlm.pack"
        written = io.BytesIO()
        for info, content in members:
            info.mode = 0o644
            written.write(info.tobuf(tarfile.USTAR_FORMAT))
            written.write(content + bytes(-len(content) % 512) if info.isreg() else b"")
        path.write_bytes(written.getvalue() + bytes(1024))
        before = sorted(shop.folder.iterdir())
        ran = shop.dlm("unpack", "x.dlm.pack", code=None)
        assert ran.code == 1, what
        assert told in ran.err and "x.dlm.pack" in ran.err and "Traceback" not in ran.err, (what, ran.err)
        assert sorted(shop.folder.iterdir()) == before, what
        assert not list(shop.home.rglob("*.staging")) and not (shop.home / "objects").exists(), what
        assert not (shop.home / "records").exists(), what


@pytest.mark.parametrize("cut", [0, 1, 511, 700, -1, -2000, None])
def test_cut_longer_or_foreign_files_are_no_packs(pack_file: Path, tmp_path: Path, cut: int | None) -> None:
    shop = empty_workshop(tmp_path)
    whole = pack_file.read_bytes()
    (shop.folder / "x.dlm.pack").write_bytes(whole + b"more" if cut is None else whole[:cut] or b"\0\xff" * 4000)
    ran = shop.dlm("unpack", "--check", "x.dlm.pack", code=1)
    assert "x.dlm.pack" in ran.err and "Traceback" not in ran.err and "defect" not in ran.err


def test_checking_a_pack_writes_nothing(pack_file: Path, tmp_path: Path) -> None:
    shop = empty_workshop(tmp_path)
    shop.dlm("unpack", "--check", str(pack_file))
    assert not list(shop.folder.glob("*.dlm")) and not shop.home.exists()
    assert "no.dlm.pack" in shop.dlm("unpack", "no.dlm.pack", code=1).err
