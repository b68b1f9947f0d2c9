from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dlmbuild.errors import StoreError
from dlmbuild.io.digest import sha256_bytes, sha256_file
from dlmbuild.store.objects import Objects

Put = Callable[[str], str]


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large."""
    monkeypatch.setattr("dlmbuild.store.objects.LINK_FROM_BYTES", 1)


def damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_text("damaged")


def test_put_moves_a_file_to_the_name_of_its_content(objects: Objects, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    sha256 = objects.put(file)
    assert sha256 == sha256_bytes(b"content")
    assert not file.exists()
    assert objects.path(sha256) == tmp_path / "objects" / sha256[:2] / sha256
    assert objects.path(sha256).read_text() == "content"
    assert objects.path(sha256).stat().st_mode & 0o777 == 0o444


def test_the_same_content_is_stored_once(objects: Objects, put: Put, tmp_path: Path) -> None:
    inode = objects.path(put("content")).stat().st_ino
    assert objects.path(put("content")).stat().st_ino == inode
    assert not (tmp_path / "new").exists()


def test_a_damaged_object_is_removed_and_can_be_put_again(objects: Objects, put: Put) -> None:
    sha256 = put("content")
    damage(objects.path(sha256))
    assert not objects.has(sha256)
    assert not objects.path(sha256).exists()
    put("content")
    assert objects.has(sha256)


def test_put_replaces_a_damaged_object(objects: Objects, put: Put) -> None:
    sha256 = put("content")
    damage(objects.path(sha256))
    assert put("content") == sha256
    assert sha256_file(objects.path(sha256)) == sha256


@pytest.mark.parametrize("name", ["", "..", "../" * 21 + "x", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "\n"])
def test_a_name_never_leads_out_of_the_folder(objects: Objects, name: str) -> None:
    with pytest.raises(StoreError, match="not the name of an object"):
        objects.has(name)


def test_place_replaces_what_is_there(objects: Objects, put: Put, tmp_path: Path) -> None:
    goal = tmp_path / "layout" / "file"
    objects.place(put("one"), goal)
    objects.place(put("two"), goal)
    assert goal.read_text() == "two"
    assert [p.name for p in goal.parent.iterdir()] == ["file"]


def test_editing_a_small_file_never_reaches_its_object(objects: Objects, put: Put, tmp_path: Path) -> None:
    sha256 = put("content")
    objects.place(sha256, tmp_path / "goal")
    (tmp_path / "goal").write_text("edited")
    assert objects.has(sha256)
    assert objects.path(sha256).read_text() == "content"


@pytest.mark.usefixtures("links")
def test_a_large_file_is_a_link_whose_digest_stays_known(objects: Objects, put: Put, tmp_path: Path) -> None:
    sha256, goal = put("content"), tmp_path / "goal"
    objects.place(sha256, goal)
    assert goal.samefile(objects.path(sha256))
    read = objects.cache.bytes_hashed
    assert objects.cache.digest(goal) == sha256
    assert objects.has(sha256)
    assert objects.cache.bytes_hashed == read


@pytest.mark.usefixtures("links")
def test_a_large_file_is_copied_where_links_are_not_possible(
    objects: Objects, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    objects.place(put("content"), tmp_path / "goal")
    assert (tmp_path / "goal").read_text() == "content"
    assert (tmp_path / "goal").stat().st_nlink == 1


@pytest.mark.usefixtures("links")
def test_another_failure_of_linking_is_told(
    objects: Objects, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sha256 = put("content")
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        objects.place(sha256, tmp_path / "goal")
    assert not list(tmp_path.glob("*goal*"))


def test_a_missing_object_is_named(objects: Objects, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is missing"):
        objects.place("a" * 64, tmp_path / "goal")
    assert not (tmp_path / "goal").exists()


@pytest.mark.usefixtures("links")
def test_a_damaged_object_is_never_handed_out(objects: Objects, put: Put, tmp_path: Path) -> None:
    sha256 = put("content")
    damage(objects.path(sha256))
    with pytest.raises(StoreError):
        objects.place(sha256, tmp_path / "goal")
    assert not (tmp_path / "goal").exists()


@pytest.mark.parametrize("large", [False, True])
def test_keep_makes_an_object_again_from_the_layout(
    objects: Objects, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr("dlmbuild.store.objects.LINK_FROM_BYTES", 1 if large else 1 << 20)
    sha256, file = put("content"), tmp_path / "file"
    objects.place(sha256, file)
    assert objects.keep(file) == sha256
    objects.path(sha256).unlink()
    assert objects.keep(file) == sha256
    assert objects.has(sha256) and file.read_text() == "content"
    assert file.samefile(objects.path(sha256)) is large
    assert [path.name for path in objects.root.iterdir()] == [sha256[:2]]


def test_a_link_that_goes_away_leaves_nothing_to_read_again(
    objects: Objects, put: Put, tmp_path: Path, links: None
) -> None:
    sha256 = put("content")
    objects.place(sha256, tmp_path / "layout")
    objects.place(sha256, tmp_path / "staged")
    objects.put(tmp_path / "staged")
    read = objects.cache.bytes_hashed
    assert objects.has(sha256)
    assert objects.lies_at(tmp_path / "layout", sha256)
    assert objects.cache.bytes_hashed == read


def test_a_large_file_that_is_to_be_replaced_is_not_read(
    objects: Objects, put: Put, tmp_path: Path, links: None
) -> None:
    (tmp_path / "layout").write_text("CONTENT")
    sha256 = put("content")
    read = objects.cache.bytes_hashed
    assert not objects.lies_at(tmp_path / "layout", sha256)
    assert objects.cache.bytes_hashed == read
