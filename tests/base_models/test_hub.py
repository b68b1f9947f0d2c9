"""The hub, played by a server on this machine, and its cache, written by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.base_models.reference import parse_reference
from dlmbuild.base_models.registry import row
from dlmbuild.base_models.resolve import fetch
from dlmbuild.errors import BaseModelError
from dlmbuild.io.digest import sha256_file

pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")

MakeCheckpoint = Callable[..., Path]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMOL = row("smollm2-135m")


class Hub:
    """One model on a hub that answers as it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commit = COMMIT
        self.status = 200
        self.error_code = ""
        self.config: dict[str, Any] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(path)
                if hub.status != 200:
                    self.answer(b"no", hub.status, **{"X-Error-Code": hub.error_code})
                elif "/revision/" in path:
                    self.answer(hub.listing("rfilename", sha=hub.commit))
                elif "/tree/" in path:
                    self.answer(hub.listing("path"))
                else:
                    file = hub.folder / path.rpartition("/")[2]
                    self.answer(
                        file.read_bytes(), 200, **{"ETag": f'"{sha256_file(file)}"', "X-Repo-Commit": hub.commit}
                    )

            def answer(self, body: bytes, status: int = 200, /, **headers: str) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def listing(self, name: str, sha: str = "") -> bytes:
        files = [
            {name: path.name, "size": path.stat().st_size, "type": "file", "oid": "0" * 40, "blobId": "0" * 40}
            for path in sorted(self.folder.iterdir())
        ]
        about = {"id": "org/name", "sha": sha, "siblings": files, "config": self.config}
        return json.dumps(about if sha else files).encode()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture
def hub(make_checkpoint: MakeCheckpoint, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(make_checkpoint("on-the-hub"))
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


@pytest.fixture
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def put_into_cache(cache: Path, checkpoint: Path, hub_id: str, commit: str, branch: str = "main") -> Path:
    """The layout of the cache: blobs by digest, snapshots of links to them, names of commits."""
    storage = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = storage / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (storage / "blobs").mkdir()
    (storage / "refs").mkdir()
    (storage / "refs" / branch).write_text(commit)
    for file in checkpoint.iterdir():
        blob = storage / "blobs" / sha256_file(file)
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def fetch_text(text: str, tmp_path: Path) -> dict[str, Any]:
    return fetch(parse_reference(text, tmp_path), tmp_path / "out")


def refused(text: str, tmp_path: Path) -> BaseModelError:
    with pytest.raises(BaseModelError) as raised:
        fetch_text(text, tmp_path)
    return raised.value


def test_a_branch_is_fetched_and_becomes_a_commit(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"\x80")
    (hub.folder / "modeling.py").write_text("")
    seen: list[tuple[str, float, float]] = []
    reference = parse_reference("hf:org/name@main", tmp_path)
    facts = fetch(reference, tmp_path / "out", lambda what, done=0, total=0, **_: seen.append((what, done, total)))
    assert facts["source"] == {"kind": "hub", "id": "org/name", "revision": COMMIT}
    assert facts["revision"] == COMMIT and facts["key"] == reference.key and facts["license"] is None
    files = {name: sha256_file(hub.folder / name) for name in facts["files"]}
    assert facts["files"] == files and "model.safetensors" in files
    assert not any(path.is_symlink() or path.suffix in (".bin", ".py") for path in (tmp_path / "out").iterdir())
    assert not any(path.endswith((".bin", ".py")) for path in hub.asked)
    size = sum((hub.folder / name).stat().st_size for name in files)
    assert ("downloading org/name", size, size) in seen


def test_a_commit_in_the_cache_is_used_when_the_hub_is_gone(hub: Hub, tmp_path: Path) -> None:
    fetch_text(f"hf:org/name@{COMMIT}", tmp_path)
    hub.status = 500
    assert fetch_text(f"hf:org/name@{COMMIT}", tmp_path)["revision"] == COMMIT


def test_a_branch_in_the_cache_is_not(hub: Hub, tmp_path: Path) -> None:
    fetch_text("hf:org/name@main", tmp_path)
    hub.status = 500
    error = refused("hf:org/name@main", tmp_path)
    assert "status 500" in error.why and "HF_HUB_OFFLINE=1" in error.do


def test_a_repository_without_safetensors_is_refused_before_the_download(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    assert "no model.safetensors" in refused("hf:org/name@main", tmp_path).what
    assert len(hub.asked) == 1


def test_an_unknown_architecture_is_refused_before_the_download(hub: Hub, tmp_path: Path) -> None:
    hub.config = {"architectures": ["FancyForCausalLM"]}
    error = refused("hf:org/name@main", tmp_path)
    assert str(error).startswith("hf:org/name@main: the base has the architecture 'FancyForCausalLM': known are ")
    assert len(hub.asked) == 1
    for unclear in ([], ["A", "B"], "LlamaForCausalLM", [3]):
        hub.config = {"architectures": unclear}
        if unclear == [3]:
            assert "'3'" in refused("hf:org/name@main", tmp_path).what
        else:
            fetch_text("hf:org/name@main", tmp_path)


def test_a_bad_model_is_named_as_the_document_does(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").write_bytes(b"no tensors")
    told = str(refused("hf:org/name@main", tmp_path))
    assert told.startswith("hf:org/name@main/model.safetensors: this is not a safetensors file")
    assert told.endswith("→ fetch it again; `hf download org/name --revision main --force-download` fetches it")


def test_a_full_disk_is_seen_before_the_download(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 100))
    assert "not enough disk space" in refused("hf:org/name@main", tmp_path).what
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("status", "code", "what", "do"),
    [
        (403, "GatedRepo", "may not be read", "accept them at"),
        (401, "GatedRepo", "may not be read", "hf auth login"),
        (403, "", "may not be read", "HF_TOKEN"),
        (401, "RepoNotFound", "no model org/name", "private"),
        (401, "", "no model org/name", "private"),
        (404, "RepoNotFound", "no model org/name", "look for it"),
        (404, "RevisionNotFound", "no revision 'main'", "/commits/main"),
        (503, "", "could not be fetched", "try again"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    hub: Hub, tmp_path: Path, status: int, code: str, what: str, do: str
) -> None:
    hub.status, hub.error_code = status, code
    error = refused("hf:org/name@main", tmp_path)
    assert what in error.what and do in error.do


def test_no_network_is_said_at_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    error = refused("hf:org/name@main", tmp_path)
    assert "could not be fetched" in error.what and "packaged copy" not in error.do


def test_the_package_never_answers_for_the_hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    error = refused("smollm2-135m@hub", tmp_path)
    assert "write base_model: smollm2-135m for the packaged copy" in error.do


@pytest.mark.usefixtures("offline")
def test_offline_the_cache_answers(cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    put_into_cache(cache, checkpoint, "org/name", COMMIT)
    for revision in ("main", COMMIT):
        facts = fetch_text(f"hf:org/name@{revision}", tmp_path)
        assert facts["revision"] == COMMIT
        assert facts["files"] == {path.name: sha256_file(path) for path in checkpoint.iterdir()}


@pytest.mark.usefixtures("offline")
def test_offline_a_registry_row_is_found_under_its_commit(
    cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    put_into_cache(cache, make_checkpoint(), SMOL.id, SMOL.revision)
    facts = fetch_text("smollm2-135m@hub", tmp_path)
    assert facts["key"] == "smollm2-135m-hub" and facts["revision"] == SMOL.revision
    assert facts["license"] == {"spdx": "Apache-2.0", "url": SMOL.license}


@pytest.mark.usefixtures("offline")
def test_offline_and_not_in_the_cache(cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    error = refused("smollm2-135m@hub", tmp_path)
    assert "HF_HUB_OFFLINE" in error.why and "write base_model: smollm2-135m" in error.do
    put_into_cache(cache, make_checkpoint(), "org/name", COMMIT)
    error = refused("hf:org/name@v2", tmp_path)
    assert "hf download org/name --revision v2" in error.do


@pytest.mark.usefixtures("offline")
def test_offline_a_snapshot_that_misses_a_file(cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    snapshot = put_into_cache(cache, make_checkpoint(), "org/name", COMMIT)
    (snapshot / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused("hf:org/name@main", tmp_path).what


@pytest.mark.usefixtures("offline")
def test_a_link_out_of_the_cache_is_not_followed(cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    snapshot = put_into_cache(cache, make_checkpoint(), "org/name", COMMIT)
    (tmp_path / "secret").write_text("mine")
    (snapshot / "LICENSE").symlink_to(tmp_path / "secret")
    assert "leads out of" in refused("hf:org/name@main", tmp_path).what


@pytest.mark.usefixtures("offline")
def test_code_is_tolerated_only_where_the_registry_knows_the_architecture(
    cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    phi = row("phi-3.5-mini")
    code = {"AutoConfig": "configuration_phi3.Phi3Config"}
    put_into_cache(cache, make_checkpoint("a", architectures=[phi.architecture], auto_map=code), phi.id, phi.revision)
    assert fetch_text("phi-3.5-mini", tmp_path)["architecture"] == phi.architecture
    put_into_cache(cache, make_checkpoint("b", architectures=["Other"], auto_map=code), SMOL.id, SMOL.revision)
    assert "auto_map" in refused("smollm2-135m@hub", tmp_path).what
    put_into_cache(cache, make_checkpoint("c", architectures=["Phi3ForCausalLM"], auto_map=code), "org/name", COMMIT)
    assert "auto_map" in refused("hf:org/name@main", tmp_path).what
