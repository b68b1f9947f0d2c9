from __future__ import annotations

from pathlib import Path

import pytest
from doit.exceptions import InvalidDodoFile

from dlmbuild.build.project import Project, find_document
from dlmbuild.errors import BaseModelError, InvalidDocument, UsageError

ID = "01HZX3Q5J8K9M2N4P6R8T0V2W{}"
HEAD = "---\ndlm_id: {id}\ndlm_version: 15\nbase_model: {base}\n{more}---\n{body}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder, in which we are."""
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dodo.py").write_text('from dlmbuild.rules import project\nglobals().update(project("*.dlm"))\n')
    monkeypatch.chdir(folder)
    return folder


def write(path: Path, number: int = 0, *, base: str = "smollm2-135m", more: str = "", body: str = "text") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(HEAD.format(id=ID.format(number), base=base, more=more, body=body))
    return path


def project(folder: Path, *patterns: str) -> Project:
    return Project(folder, patterns or ("*.dlm",))


def test_documents_in_the_order_of_their_paths(folder: Path) -> None:
    write(folder / "b.dlm", 1, more="export:\n  default_quant: Q8_0\n")
    write(folder / "a.dlm", 2)
    write(folder / "sub" / "c.dlm", 3)
    (folder / "folder.dlm").mkdir()
    (folder / "notes.md").write_text("no document")
    found = project(folder, "*.dlm", "*/*.dlm", "a.dlm").documents
    assert [(d.name, d.path, d.default_quant) for d in found] == [
        ("a", Path("a.dlm"), "Q4_K_M"),
        ("b", Path("b.dlm"), "Q8_0"),
        ("c", Path("sub/c.dlm"), "Q4_K_M"),
    ]
    assert [d.store.root.name for d in found] == [ID.format(n) for n in (2, 1, 3)]


def test_a_base_that_two_documents_share_is_there_once(folder: Path) -> None:
    write(folder / "a.dlm", 1)
    write(folder / "b.dlm", 2)
    write(folder / "c.dlm", 3, base="smollm2-360m")
    assert [reference.key for reference, _ in project(folder).bases()] == ["smollm2-135m", "smollm2-360m"]


def test_local_bases_start_at_the_document(folder: Path) -> None:
    write(folder / "sub" / "a.dlm", base="file:./base")
    (folder / "sub" / "base").mkdir()
    (folder / "sub" / "base" / "config.json").touch()
    [found] = project(folder, "*/*.dlm").documents
    assert found.base.path == folder / "sub" / "base"


def test_a_document_with_mistakes_tells_all_of_them(folder: Path) -> None:
    write(folder / "good.dlm", 1)
    write(folder / "bad.dlm", 2, more="learning: 3\n", body="::instruction::\n### Q\nWhy?\n")
    both = project(folder)
    assert [d.name for d in both.documents] == ["good"]
    [broken] = both.broken
    assert broken.name == "bad"
    assert isinstance(broken.error, InvalidDocument)
    assert len(broken.error.errors) == 2
    assert all(str(error).startswith("bad.dlm:") for error in broken.error.errors)


def test_an_unknown_base_has_the_position_of_its_line(folder: Path) -> None:
    write(folder / "a.dlm", base="smollm2-135")
    [broken] = project(folder).broken
    assert isinstance(broken.error, BaseModelError)
    assert str(broken.error).startswith("a.dlm:4:13: unknown base model 'smollm2-135'")


def test_a_base_that_is_not_there_breaks_only_what_stands_on_it(folder: Path) -> None:
    write(folder / "a.dlm", 1, base="file:./base", more="training: {seed: 1}\n")
    write(folder / "b.dlm", 2)
    found = project(folder)
    [broken] = found.broken
    assert str(broken.error).startswith("a.dlm:4:13: 'file:./base' names no folder: ")
    assert [d.name for d in found.documents] == ["b"]
    assert [reference.key for reference, _ in found.bases()] == ["smollm2-135m"]
    assert find_document("a", folder)[1] == broken.otherwise
    write(folder / "a.dlm", 2, base="file:./base")
    with pytest.raises(InvalidDodoFile, match=r"b.dlm:2:9: a.dlm and b.dlm have the same dlm_id"):
        assert project(folder).documents


@pytest.mark.parametrize("data", [b"", b"\xff\xfea", b"a\0b", b"text", b"---\n", b"---\n- 1\n---\n"])
def test_a_file_that_is_no_document(folder: Path, data: bytes) -> None:
    (folder / "a.dlm").write_bytes(data)
    [broken] = project(folder).broken
    assert "a.dlm:" in str(broken.error)


def test_a_file_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "a.dlm", 1)
    denied = write(folder / "b.dlm", 2)
    found = project(folder)
    digest = found.archive.cache.digest

    def refuse(path: Path) -> str:
        if path == denied:
            raise PermissionError(13, "Permission denied", str(path))
        return digest(path)

    monkeypatch.setattr(found.archive.cache, "digest", refuse)
    [broken] = found.broken
    assert (
        str(broken.error) == "b.dlm: the file cannot be read: Permission denied\n  → check the path and its permissions"
    )
    assert [d.name for d in found.documents] == ["a"]


def test_a_header_is_parsed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "home").mkdir()
    path = write(folder / "a.dlm")
    before = project(folder).documents
    monkeypatch.setattr("dlmbuild.doc.header.read_header", None)  # raises when it is called
    assert project(folder).documents == before
    path.rename(folder / "list.dlm")
    with pytest.raises(TypeError):
        assert project(folder).documents  # another name is looked at anew


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null", b'{"dlm_id": "x"}'])
def test_a_damaged_memory_of_headers(folder: Path, data: bytes) -> None:
    (folder.parent / "home").mkdir()
    write(folder / "a.dlm")
    before = project(folder).documents
    [memory] = (folder.parent / "home" / "headers").iterdir()
    memory.write_bytes(data)
    assert project(folder).documents == before


def test_a_home_that_cannot_be_written(folder: Path) -> None:
    (folder.parent / "home").write_text("a file")
    write(folder / "a.dlm")
    assert [d.name for d in project(folder).documents] == ["a"]


def test_a_very_long_name(folder: Path) -> None:
    write(folder / ("n" * 250 + ".dlm"))
    assert len(project(folder).documents) == 1


@pytest.mark.parametrize("broken", [False, True])
def test_two_documents_of_one_name_are_refused(folder: Path, broken: bool) -> None:
    write(folder / "x" / "a.dlm", 1)
    write(folder / "y" / "a.dlm", 2, base="smollm2-135" if broken else "smollm2-135m")
    with pytest.raises(InvalidDodoFile, match=r"x/a.dlm and y/a.dlm have the same name"):
        assert project(folder, "*/*.dlm").documents


def test_two_documents_of_one_id_are_refused(folder: Path) -> None:
    write(folder / "a.dlm", 1)
    write(folder / "b.dlm", 1)
    with pytest.raises(InvalidDodoFile, match=r"a.dlm and b.dlm have the same dlm_id"):
        assert project(folder).documents


# -- find_document ---------------------------------------------------------------------------------------------


def test_found_by_name_and_by_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder / "a.dlm", 1)
    assert find_document("a", folder)[1].path == Path("a.dlm")
    assert find_document("a.dlm", folder)[1].name == "a"
    monkeypatch.chdir(folder.parent)
    elsewhere, found = find_document("project/a.dlm", folder.parent)
    assert found.name == "a" and found.dlm_id == ID.format(1)
    assert elsewhere.base_folder(found.base).root.name == "smollm2-135m"
    assert find_document(str(path), Path("/"))[1].name == "a"


def test_a_name_may_hold_dots(folder: Path) -> None:
    write(folder / "v1.dlm", 1)
    write(folder / "v1.5.dlm", 2)
    assert find_document("v1.5", folder)[1].dlm_id == ID.format(2)
    assert find_document("v1", folder)[1].dlm_id == ID.format(1)
    with pytest.raises(UsageError):
        find_document("v1.6", folder)


def test_by_path_the_neighbours_do_not_matter(folder: Path) -> None:
    write(folder / "a.dlm", 1)
    write(folder / "copy.dlm", 1)
    assert find_document("a.dlm", folder)[1].name == "a"


def test_a_path_is_no_pattern(folder: Path) -> None:
    write(folder / "[a].dlm")
    with pytest.raises(InvalidDocument, match="cannot be called"):
        find_document("[a].dlm", folder)


def test_a_link_has_its_own_name(folder: Path) -> None:
    write(folder.parent / "far.dlm", 1, base="file:./base")
    (folder / "near.dlm").symlink_to(folder.parent / "far.dlm")
    found = find_document("near.dlm", folder)[1]
    assert found.name == "near" and found.base.path == folder / "base"
    assert find_document("near", folder)[1].base == found.base


def test_a_broken_document_raises_its_mistakes(folder: Path) -> None:
    write(folder / "a.dlm", base="smollm2-135")
    for named in ("a", "a.dlm"):
        with pytest.raises(BaseModelError, match="unknown base model"):
            find_document(named, folder)


def test_an_unknown_name_lists_the_known_ones(folder: Path) -> None:
    write(folder / "a.dlm", 1)
    write(folder / "b.dlm", 2)
    with pytest.raises(UsageError) as caught:
        find_document("c", folder)
    assert caught.value.what == "there is no document 'c' in this project" and "a, b" in caught.value.why


def test_copies_are_told_without_a_traceback(folder: Path) -> None:
    write(folder / "a.dlm", 1)
    write(folder / "b.dlm", 1)
    with pytest.raises(UsageError, match="the same dlm_id"):
        find_document("a", folder)


def test_a_folder_that_is_no_project(folder: Path) -> None:
    (folder / "dodo.py").write_text("x = 1")
    with pytest.raises(UsageError, match=r"calls no dlmbuild.rules.project"):
        find_document("a", folder)
    (folder / "dodo.py").unlink()
    with pytest.raises(UsageError, match=r"no dodo.py"):
        find_document("a", folder)
