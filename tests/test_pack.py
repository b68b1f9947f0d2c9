"""Packs through the command line: there and back, the same bytes everywhere, and hostile ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.history import FAKE_JOBS
from tests.workshop import SCRIPTS, Workshop, empty_workshop

pytestmark = pytest.mark.model

KILL_STRIDE = int(os.environ.get("DLM_KILL_STRIDE", "5"))
"""`DLM_KILL_STRIDE=1 pytest tests/test_pack.py -k killed` kills at every single commit."""


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
    assert "dodo.py" not in said
    elsewhere.doit("pack")  # and passed on as it came
    assert (elsewhere.folder / "tower.dlm.pack").read_bytes() == (packed.folder / "tower.dlm.pack").read_bytes()
    assert "everything is up to date" in elsewhere.doit("pack").out


def test_what_is_unpacked_where_no_project_is_can_be_built(elsewhere: Workshop) -> None:
    dodo = elsewhere.folder / "dodo.py"
    mine = dodo.read_text()
    dodo.unlink()
    assert "dodo.py is new as well" in elsewhere.dlm("unpack", "../../tower.dlm.pack").out
    assert dodo.read_text() == mine
    assert "train:tower" in elsewhere.doit("train").restored
    dodo.write_text(mine + "# mine\n")
    (elsewhere.folder / "tower.dlm").unlink()
    elsewhere.dlm("unpack", "../../tower.dlm.pack")
    assert dodo.read_text() == mine + "# mine\n"


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


def test_two_documents_with_the_same_rows_are_both_restored(
    packed: Workshop, elsewhere: Workshop, tmp_path: Path
) -> None:
    twin = Workshop(tmp_path / "twin", packed.home)
    shutil.copytree(packed.folder / "base", twin.folder / "base")
    shutil.copy(packed.folder / "dodo.py", twin.folder)
    twin.document("twin")
    twin.doit("pack")
    for name, shop in (("tower", packed), ("twin", twin)):
        shutil.copy(shop.folder / f"{name}.dlm.pack", elsewhere.folder)
        elsewhere.dlm("unpack", f"{name}.dlm.pack")
    elsewhere.dlm("gc", "--delete")
    ran = elsewhere.doit("train")
    assert {"train:tower", "train:twin"} <= set(ran.restored)
    elsewhere.dlm("lock")


def test_why_says_what_doit_then_does(packed: Workshop) -> None:
    old = (packed.folder / "tower.dlm").read_text()
    packed.edit("tower", "in fog", "at noon")
    packed.doit("pack")
    (packed.folder / "tower.dlm").write_text(old)
    said = json.loads(packed.doit("why", "--json", "pack", code=None).out)
    verdicts = {finding["task"]: finding["verdict"] for finding in said}
    ran = packed.doit("pack")
    assert verdicts["pack:tower"] == "restore" and "pack:tower" in ran.restored
    assert {task for task, verdict in verdicts.items() if verdict == "restore"} == set(ran.restored)
    assert ran.steps == []


def test_a_large_pack_is_the_persons_to_edit_too(built: Workshop) -> None:
    (built.folder / "limit.py").write_text(
        "import dlmbuild.store.objects\ndlmbuild.store.objects.LINK_FROM_BYTES = 1\n"
    )
    dodo = built.folder / "dodo.py"
    dodo.write_text("import limit\n" + dodo.read_text())
    built.doit("pack")
    pack = built.folder / "tower.dlm.pack"
    whole = pack.read_bytes()
    assert pack.stat().st_nlink == 1 and pack.stat().st_mode & 0o200
    with pack.open("ab") as file:
        file.write(b"mine")
    assert built.doit("pack").restored == ["pack:tower"] and pack.read_bytes() == whole
    pack.rename(built.folder / "kept.dlm.pack")
    assert built.doit("pack").restored == ["pack:tower"] and pack.read_bytes() == whole


def test_a_pack_of_a_home_without_a_lock(built: Workshop, tmp_path: Path) -> None:
    fresh = Workshop(built.folder, tmp_path / "fresh")
    assert "pack:tower" in fresh.doit("lock=ignore", "pack").steps
    assert fresh.doit("lock=ignore", "pack").steps == []
    fresh.dlm("unpack", "--check", "tower.dlm.pack")


def test_what_comes_while_an_unpacking_waits_is_not_overwritten(elsewhere: Workshop, packed: Workshop) -> None:
    from dlmbuild.store.exclusive import exclusive

    lock = elsewhere.home / "store" / packed.store.name / ".lock"
    with exclusive(lock, "a test", print):
        waiting = subprocess.Popen(
            [str(SCRIPTS / "dlm"), "unpack", "../../tower.dlm.pack"],
            cwd=elsewhere.folder,
            env=elsewhere.env(PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stdout is not None and "a test" in waiting.stdout.readline()
        (elsewhere.folder / "tower.dlm").write_text("mine")
    _, told = waiting.communicate(timeout=60)
    assert waiting.returncode == 1 and "tower.dlm is here already" in told
    assert (elsewhere.folder / "tower.dlm").read_text() == "mine"


def contents(*folders: Path) -> dict[str, bytes]:
    """Every file that counts, by its path within its folder."""
    files = [(path.relative_to(folder), path) for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(name): path.read_bytes() for name, path in files if path.name not in (".lock", "stat.sqlite")}


def test_an_unpacking_killed_at_any_commit_is_finished_by_the_next(pack_file: Path, tmp_path: Path) -> None:
    (tmp_path / "fake_jobs.py").write_text(FAKE_JOBS)
    program = "import sys, fake_jobs; from dlmbuild.cli import main; sys.exit(main(['unpack', '--force', sys.argv[1]]))"
    words = [sys.executable, "-c", program, str(pack_file)]
    seen: list[dict[str, bytes]] = []
    for at in range(0, 1000, KILL_STRIDE):  # 0 kills nobody
        shop = empty_workshop(tmp_path / str(at))
        (shop.folder / "tower.dlm").write_text("mine")
        environment = shop.env(KILL_AT=str(at), PYTHONPATH=str(tmp_path))
        killed = subprocess.run(words, cwd=shop.folder, env=environment, capture_output=True, check=False)
        assert killed.returncode in (0, -9), killed.stderr
        shop.dlm("unpack", "--force", str(pack_file))
        shop.dlm("gc", "--delete")
        found = contents(shop.folder, shop.home)
        seen.append({name: data for name, data in found.items() if not name.startswith("stat.sqlite")})
        assert seen[-1] == seen[0], (at, seen[-1].keys() ^ seen[0].keys())
        assert found["tower.dlm.before"] == b"mine"
        if at and killed.returncode == 0:
            break
    assert len(seen) * KILL_STRIDE > 30


Edit = Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = len(content), kind, 0o644
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname, info.size = "/etc/passwd", 0
    return info, content


def members_of(pack: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(pack) as tar:
        return [member(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def written(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """The pack with these members."""
    held = [(info, content + bytes(-len(content) % 512) if info.isreg() else b"") for info, content in members]
    return b"".join(info.tobuf(tarfile.USTAR_FORMAT) + content for info, content in held) + bytes(1024)


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


def noted(**changes: object) -> Edit:
    return lambda m: record(notes={**json.loads(m[0][1])["records"][0]["notes"], **changes})(m)


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
    "notes that no lock can hold": (noted(machine={"isa": [None]}), "cannot be understood"),
    "a training that went on from nobody knows what": (noted(run={"warm": {"x": 1}}), "cannot be understood"),
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


def another(file: str, change: Callable[[bytes], bytes]) -> Edit:
    """A pack that is right in all but what one of its adapter's files holds."""

    def edit(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        data = json.loads(members[0][1])
        objects = {info.name.partition("/")[2]: content for info, content in members[1:]}
        outputs = data["records"][0]["outputs"]

        def replace(name: str, content: bytes) -> str:
            del objects[outputs[name]]
            outputs[name] = sha256(content).hexdigest()
            objects[outputs[name]] = content
            return str(outputs[name])

        digest = replace(file, change(objects[outputs[file]]))
        described = json.loads(objects[outputs["adapter.json"]])
        if file in described["files"]:
            described["files"][file] = digest
            replace("adapter.json", json.dumps(described).encode())
        data["objects"] = {name: len(content) for name, content in objects.items()}
        members[:] = [
            member("header.json", json.dumps(data).encode()),
            *(member(f"objects/{name}", content) for name, content in sorted(objects.items())),
        ]

    return edit


def config(file: str = "adapter_config.json", /, **changes: object) -> Edit:
    def change(content: bytes) -> bytes:
        said = {**json.loads(content), **changes}
        return json.dumps({name: value for name, value in said.items() if value != "absent"}).encode()

    return another(file, change)


def weights(change: Callable[[dict[str, Any]], object]) -> Edit:
    def changed(content: bytes) -> bytes:
        tensors = load(content)
        change(tensors)
        return save(tensors)

    return another("adapter_model.safetensors", changed)


def wider(tensors: dict[str, Any]) -> None:
    """The factors of a weight with one more column."""
    tensors[f"{UP}.lora_A.weight"] = np.pad(tensors[f"{UP}.lora_A.weight"], ((0, 0), (0, 1)))


HOSTILE |= {
    f"an adapter with {name} {value!r}": (config(**{name: value}), f"the adapter's configuration has {name} = ")
    for name, value in {
        "peft_type": "XLORA",
        "auto_mapping": {"parent_library": "os", "base_model_class": "system"},
        "base_model_name_or_path": "../../secret",
        "revision": "main",
        "target_modules": "(a+)+$",
        "exclude_modules": "(a+)+$",
        "layer_replication": [[0, 100000]],
        "init_lora_weights": "loftq",
        "loftq_config": {"loftq_bits": 4},
        "corda_config": {"cache_file": "/tmp/x"},
        "megatron_config": {"x": 1},
        "megatron_core": "os",
        "modules_to_save": ["lm_head"],
        "trainable_token_indices": [1],
        "rank_pattern": {"(a+)+$": 4},
        "r": 10**9,
        "lora_alpha": float(10**9),
        "lora_dropout": True,
        "use_dora": 1,
        "layers_to_transform": [10**6],
        "unheard_of": "yes",
    }.items()
}
FOREIGN = {"name": "file:base", "revision": "0" * 64, "files": {}}
HOSTILE |= {
    f"an adapter whose {name} names another base": (config(name, base=FOREIGN), "something else than the record")
    for name in ("adapter.json", "training_run.json")
}
HOSTILE["an adapter that went on from another"] = (
    config("adapter.json", warm={"changed_rows": 1, "chain": 1, "steps": 2}),
    "something else than the record",
)
UP = "base_model.model.model.layers.1.mlp.up_proj"
UNFIT: dict[str, tuple[Edit, str]] = {
    "no weights at all": (another("adapter_model.safetensors", lambda _: b"junk"), "not a safetensors file"),
    "a header without end": (
        another("adapter_model.safetensors", lambda content: b"\xff" * 7 + content[7:]),
        "not a safetensors file",
    ),
    "a tensor outside of the file": (
        another("adapter_model.safetensors", lambda content: content[:-4]),
        "does not lie in the file",
    ),
    "half a pair": (weights(lambda held: held.pop(f"{UP}.lora_B.weight")), "half of the pair"),
    "integers": (weights(lambda held: held.update({f"{UP}.lora_A.weight": np.ones((8, 64), "i8")})), "holds I64"),
    "another tensor": (weights(lambda held: held.update(x=np.ones(3, "f4"))), "the tensor 'x': only pairs"),
    "factors that do not multiply": (
        weights(lambda held: held.update({f"{UP}.lora_B.weight": np.ones((128, 3), "f4")})),
        "they do not multiply",
    ),
    "another rank": (config(r=3), "adapter_config.json says 3"),
    "no magnitudes": (config(use_dora=True), "there is no magnitude vector"),
    "modules that are not named": (config(target_modules=["k_proj"]), "adapter_config.json names no such module"),
    "a layer that is not named": (config(layers_to_transform=[0]), "adapter_config.json names no such module"),
}
HOSTILE |= {f"an adapter with {what}": (edit, f"do not fit: .*{told}") for what, (edit, told) in UNFIT.items()}
HOSTILE["an adapter without a rank"] = (config(r="absent"), "the adapter's configuration has no r")


def test_an_adapter_of_another_version_of_peft_is_taken(pack_file: Path, tmp_path: Path) -> None:
    shop = empty_workshop(tmp_path)
    members = members_of(pack_file)
    config(unheard_of=None, use_new=False, more={}, peft_version="9.9", megatron_core="absent")(members)
    (shop.folder / "x.dlm.pack").write_bytes(written(members))
    shop.dlm("unpack", "x.dlm.pack")


def test_an_adapter_of_other_shapes_than_the_base_here_is_refused(pack_file: Path, tmp_path: Path) -> None:
    shop = empty_workshop(tmp_path)
    members = members_of(pack_file)
    weights(wider)(members)
    (shop.folder / "x.dlm.pack").write_bytes(written(members))
    shop.dlm("unpack", "--check", "x.dlm.pack")  # nobody here knows better

    shutil.copytree(pack_file.parent / "base", shop.folder / "base")
    shop.document("other")
    shop.doit("base")
    before = contents(shop.folder, shop.home)
    for words in (["--check"], []):
        refused = shop.dlm("unpack", *words, "x.dlm.pack", code=1).err
        assert "do not fit: the pair for 'model.layers.1.mlp.up_proj' has the shapes (16, 65) and (128, 16)" in refused
        assert "the weight has the shape (128, 64): the adapter belongs to another base" in refused
    assert contents(shop.folder, shop.home) == before
    shop.dlm("unpack", str(pack_file))


def test_hostile_packs_are_refused_in_words_and_leave_nothing(pack_file: Path, tmp_path: Path) -> None:
    good = members_of(pack_file)
    for what, (edit, told) in HOSTILE.items():
        members = [member(info.name, content) for info, content in good]
        edit(members)
        shop = empty_workshop(tmp_path / sha256(what.encode()).hexdigest()[:8])
        path = shop.folder / "x.dlm.pack"
        path.write_bytes(written(members))
        before = sorted(shop.folder.iterdir())
        ran = shop.dlm("unpack", "x.dlm.pack", code=None)
        assert ran.code == 1, what
        assert re.search(told if "do not fit" in told else re.escape(told), ran.err), (what, ran.err)
        assert "x.dlm.pack" in ran.err and "Traceback" not in ran.err, (what, ran.err)
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
