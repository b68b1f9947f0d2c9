"""What counts in folders and files of sources, on trees of every friendly and hostile kind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dlmbuild.doc import source_file, source_tree
from dlmbuild.doc.ignore import compiled, excluded_by_default, refusal
from dlmbuild.doc.source_config import read_config
from dlmbuild.doc.sources import Found, SourceError, find_sources
from dlmbuild.errors import DlmError, InvalidDocument, StoreError

DEFAULTS: dict[str, Any] = {"include": ["**/*"], "exclude": [], "max_bytes_per_file": None, "max_files": None}


class Project:
    """A folder with a document, and sources to write."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.root.mkdir()
        self.document = self.write("tower.dlm", "---\n")
        self.memory: Path | None = root / "memory"

    def write(self, name: str, content: str | bytes = "text\n") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def find(self, *paths: str, policy: str = "permissive", **more: Any) -> list[Found]:
        given = [{**DEFAULTS, "path": path, **more} for path in paths]
        return find_sources(dict(enumerate(given)), policy, self.document, self.memory)

    def files(self, *paths: str, policy: str = "permissive", **more: Any) -> list[str]:
        return [name for source in self.find(*paths, policy=policy, **more) for name in source.files]

    def skipped(self, path: str, policy: str = "permissive", **more: Any) -> dict[str, int]:
        return dict(self.find(path, policy=policy, **more)[0].skipped)

    def refusal(self, *paths: str, policy: str = "permissive", **more: Any) -> DlmError:
        """The only mistake."""
        with pytest.raises(InvalidDocument) as caught:
            self.find(*paths, policy=policy, **more)
        return caught.value.errors[0] if len(caught.value.errors) == 1 else caught.value


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    monkeypatch.chdir(project.root)
    return project


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the source files that were read."""
    names: list[str] = []

    def examine(name: str, *more: Any, **named: Any) -> str:
        names.append(name)
        return source_file.examine(name, *more, **named)

    monkeypatch.setattr(source_tree, "examine", examine)
    return names


def settle() -> None:
    """Let what was written just now lie in the past."""
    time.sleep(0.03)


# -- what counts ---------------------------------------------------------------------------------------------------


def test_a_folder_gives_every_text_below_it_with_its_digest(project: Project) -> None:
    project.write("docs/b.md", "two\n")
    project.write("docs/deep/er/a.txt", "one\n")
    [found] = project.find("docs")
    digests = {
        name: sha256(text.encode()).hexdigest() for name, text in (("b.md", "two\n"), ("deep/er/a.txt", "one\n"))
    }
    assert found.as_data() == {"path": "docs", "files": digests, "skipped": {}}
    assert str(found) == "docs: 2 files, 8 bytes"


def test_one_file(project: Project) -> None:
    project.write("notes/a.md")
    project.write("notes/b.md")
    assert project.files("notes/a.md") == ["a.md"]
    assert project.find("notes/a.md")[0].root == str(project.root / "notes")


def test_a_file_that_is_named_needs_no_leave_but_must_be_text(project: Project) -> None:
    project.write(".env", "KEY=1\n")
    project.write("a.bin", b"\0")
    assert project.files(".env") == [".env"]
    assert "gives no text: it is binary" in str(project.refusal("a.bin"))


def test_what_gives_no_text_is_counted(project: Project) -> None:
    project.write("docs/a.md")
    project.write("docs/b", b"text and a \0 later")
    project.write("docs/c", "naïve".encode("latin-1"))
    project.write("docs/cut", "é".encode()[:1])
    project.write("docs/d", "ä".encode("utf-16"))
    project.write("docs/e", b"")
    project.write("docs/f", "\ufeff \n\n")
    assert project.files("docs") == ["a.md"]
    assert project.skipped("docs") == {"binary": 1, "empty": 2, "not UTF-8": 3}
    assert str(project.find("docs")[0]) == "docs: 1 file, 5 bytes; left out: 1 binary, 2 empty, 3 not UTF-8"


def test_secrets_and_vendored_trees_are_left_out_at_any_depth(project: Project) -> None:
    names = [".env", "a/.env.local", "a/id_rsa", "a/b/server.pem", "a/b/X.KEY", "secrets.yaml", "a/lib.min.js", "x.map"]
    names += ["a/.git/config", "a/b/node_modules/x/y.js", "a/__pycache__/x.txt", ".venv/x.py", "a/build/x.txt", ".GIT"]
    for name in names:
        project.write(f"docs/{name}")
    kept = ["a/environment.md", "a/keynote.md", "a/myid_rsa", "builder.md", "sourcemap.txt"]
    for name in kept:
        project.write(f"docs/{name}")
    assert project.files("docs") == kept
    assert project.skipped("docs") == {"excluded by default": 9, "excluded by default (folders)": 5}


@pytest.mark.parametrize(
    ("include", "exclude", "kept"),
    [
        (["*.md"], [], ["a.md", "x/b.md", "x/y/c.md"]),
        (["/*.md"], [], ["a.md"]),
        (["x/**/*.md"], [], ["x/b.md", "x/y/c.md"]),
        (["x"], [], ["x/b.md", "x/y/c.md", "x/y/d.txt", "x/y/test.py"]),
        (["**/*"], ["*.md"], ["mytest.py", "test.py", "x/y/d.txt", "x/y/test.py"]),
        (["**/*"], ["**/test.py", "*.md"], ["mytest.py", "x/y/d.txt"]),
        (["**/*"], ["y/"], ["a.md", "mytest.py", "test.py", "x/b.md"]),
        (["**/*"], ["/y/"], ["a.md", "mytest.py", "test.py", "x/b.md", "x/y/c.md", "x/y/d.txt", "x/y/test.py"]),
        (["*", "!*.py"], ["*.md", "!x/b.md"], ["x/b.md", "x/y/d.txt"]),
        ([], [], []),
    ],
)
def test_patterns_are_those_of_gitignore(
    project: Project, include: list[str], exclude: list[str], kept: list[str]
) -> None:
    for name in ("a.md", "x/b.md", "x/y/c.md", "x/y/d.txt", "test.py", "mytest.py", "x/y/test.py"):
        project.write(f"src/{name}")
    assert project.files("src", include=include, exclude=exclude) == kept
    settle()
    assert project.files("src", include=include, exclude=exclude) == kept  # from memory


def test_limits(project: Project) -> None:
    for name, size in (("a", 5), ("b", 6), ("c", 5), ("d", 5)):
        project.write(f"docs/{name}", "x" * size)
    assert project.files("docs", max_bytes_per_file=5, max_files=2) == ["a", "c"]
    assert project.skipped("docs", max_bytes_per_file=5, max_files=2) == {"over max_files": 1, "too large": 1}
    assert project.files("docs", max_bytes_per_file=6) == ["a", "b", "c", "d"]


# -- .dlm/training.yaml and .dlm/ignore ----------------------------------------------------------------------------


def test_the_nearest_include_counts_and_is_relative_to_its_folder(project: Project) -> None:
    for name in ("a.md", "a.py", "lib/a.md", "lib/a.py", "lib/deep/b.py", "lib/deep/b.md"):
        project.write(f"src/{name}")
    project.write("src/lib/.dlm/training.yaml", "include: ['/*.py', 'deep/*']\n")
    assert project.files("src", include=["*.md"]) == ["a.md", "lib/a.py", "lib/deep/b.md", "lib/deep/b.py"]
    project.write("src/lib/deep/.dlm/training.yaml", "include: ['*.md']\n")
    assert project.files("src", include=["*.md"]) == ["a.md", "lib/a.py", "lib/deep/b.md"]


def test_an_ignore_file_holds_for_its_folder_and_what_is_below(project: Project) -> None:
    for name in ("x.log", "a/x.log", "a/b/x.log", "a/b/y.log", "c/x.log"):
        project.write(f"src/{name}")
    project.write("src/a/.dlm/ignore", "# no logs here\n*.log\n\n!/b/y.log\n")
    assert project.files("src") == ["a/b/y.log", "c/x.log", "x.log"]
    project.write("src/a/b/.dlm/ignore", "!x.log\n")
    assert project.files("src") == ["a/b/x.log", "a/b/y.log", "c/x.log", "x.log"]


def test_only_ignore_files_take_something_in_again(project: Project) -> None:
    for name in (".env.example", "build/a.md", "target/b.md", "skip/c.md", "dist/d.md"):
        project.write(f"src/{name}")
    project.write("src/.dlm/training.yaml", "exclude: ['!dist/']\n")
    project.write("src/.dlm/ignore", "!.env.example\n!build/\n!skip/\n!target/b.md\n")
    assert project.files("src", exclude=["skip/"]) == [".env.example", "build/a.md", "skip/c.md"]


def test_the_defaults_can_be_switched_off_for_a_subtree(project: Project) -> None:
    for name in ("build/a.md", "x/build/b.md", "x/y/build/c.md", "x/.git/config", "x/.hg/h"):
        project.write(f"src/{name}")
    project.write("src/x/.dlm/training.yaml", "exclude_defaults: false\n")
    assert project.files("src") == ["x/build/b.md", "x/y/build/c.md"]
    project.write("src/x/y/.dlm/training.yaml", "dlm_training_version: 1\n")
    assert project.files("src") == ["x/build/b.md"]


def test_a_thousand_patterns_on_long_names_take_no_time_to_speak_of(project: Project) -> None:
    folder = "/".join(["a" * 200] * 8)
    project.write(f"docs/{folder}/a.txt")
    project.write(f"docs/{folder}/axaxa-aab.txt")
    project.write(
        "docs/.dlm/ignore", "".join(f"**/a*a*a*b{number % 9}.txt\n" for number in range(999)) + "a*a*?a[b]*\n"
    )
    assert project.files("docs") == [f"{folder}/a.txt"]  # minutes, were each way to place the stars tried


def test_no_link_goes_round_what_is_left_out(project: Project) -> None:
    project.write("docs/a.md")
    project.write("docs/x/.dlm/training.yaml", "exclude_defaults: false\n")
    for number, path in enumerate((".git/config", ".ssh/config", "other/.AWS/notes.md", "other/notes.md")):
        project.write(path, f"Text {number}.")
        for folder in ("docs", "docs/x"):
            (project.root / folder / f"link{number}.md").symlink_to(project.root / path)
    assert project.files("docs") == ["a.md", "link3.md", "x/link1.md", "x/link2.md"]
    assert project.skipped("docs") == {"excluded by default": 4, "already in another source": 1}


def test_nothing_takes_in_what_is_the_repositorys(project: Project) -> None:
    project.write("docs/a.md")
    project.write("docs/.git", "gitdir: /elsewhere\n")  # as in a work tree of git
    project.write("docs/.dlm/training.yaml", "exclude_defaults: false\n")
    project.write("docs/.dlm/ignore", "!.git\n")
    assert project.files("docs") == ["a.md"] and project.skipped("docs") == {"excluded by default": 1}
    project.write(".git/config", "[core]\n")
    project.write("src/.hg/hgrc", "[ui]\n")
    (project.root / "way").symlink_to(".git")
    for path, name in (
        (".git", ".git"),
        (".git/config", ".git"),
        ("src/.hg", ".hg"),
        ("way", ".git"),
        ("docs/.git", ".git"),
    ):
        refusal = project.refusal(path)
        assert isinstance(refusal, SourceError) and refusal.key == ("training", "sources", 0, "path")
        assert str(refusal).startswith(f'training.sources[0].path is "{path}": nothing takes in {name}\n')
    project.document = project.write(
        ".git/inside/.dlm/tower.dlm", "---\n"
    )  # where the project itself lies is no matter
    project.write(".git/inside/notes/a.md")
    assert project.files("notes") == ["a.md"]


def test_excludes_add_up_on_the_way_down(project: Project) -> None:
    for name in ("a.txt", "a.md", "x/a.txt", "x/a.md", "x/a.rst", "y/a.rst"):
        project.write(f"src/{name}")
    project.write("src/.dlm/training.yaml", "exclude: ['*.txt']\n")
    project.write("src/x/.dlm/training.yaml", "exclude: ['*.rst']\n")
    assert project.files("src") == ["a.md", "x/a.md", "y/a.rst"]


def test_weights_multiply_and_stay_in_their_subtree(project: Project) -> None:
    for name in ("a.md", "x/a.md", "x/y/a.md", "z/a.md"):
        project.write(f"src/{name}")
    project.write("src/.dlm/training.yaml", "weights: {tone: {formal: 2}}\n")
    project.write("src/x/.dlm/training.yaml", "metadata: {tone: formal, lang: en}\nweights: {lang: {en: 1.5}}\n")
    project.write("src/x/y/.dlm/training.yaml", "metadata: {tone: casual}\nweights: {lang: {en: 0}}\n")
    project.write("src/z/.dlm/training.yaml", "metadata: {lang: en}\n")
    [found] = project.find("src")
    assert found.as_data()["weights"] == {"x/a.md": 3.0, "x/y/a.md": 0.0}


def test_configurations_above_the_source_do_not_count(project: Project) -> None:
    project.write(".dlm/ignore", "*\n")
    project.write("docs/a.md")
    assert project.files("docs") == ["a.md"]
    assert project.files(".") == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("training.yaml", "exclude: ['a'\n", "docs/in/.dlm/training.yaml:2:1: this is not YAML"),
        ("training.yaml", "a: 1\nexlude: [a]\n", 'docs/in/.dlm/training.yaml:2:1: unknown key "exlude"'),
        ("training.yaml", "exclude: secret\n", 'docs/in/.dlm/training.yaml:1:10: exclude is "secret"'),
        ("training.yaml", "include:\n  - a\n  - 3\n", "docs/in/.dlm/training.yaml:3:5: include[1] is 3"),
        ("training.yaml", "include: [a, '[z-a]']\n", 'docs/in/.dlm/training.yaml:1:14: the pattern "[z-a]"'),
        ("training.yaml", "exclude_defaults: no\n", 'docs/in/.dlm/training.yaml:1:19: exclude_defaults is "no"'),
        ("training.yaml", "dlm_training_version: 2\n", "docs/in/.dlm/training.yaml:1:23: dlm_training_version is 2"),
        ("training.yaml", "metadata:\n  year: 2024\n", "docs/in/.dlm/training.yaml:2:9: metadata.year is 2024"),
        ("training.yaml", "weights: {a: {b: -1}}\n", "docs/in/.dlm/training.yaml:1:18: weights.a.b is -1"),
        ("training.yaml", "weights: {a: {b: .nan}}\n", "docs/in/.dlm/training.yaml:1:18: weights.a.b is NaN"),
        ("training.yaml", "weights: {a: 2}\n", "docs/in/.dlm/training.yaml:1:14: weights.a is 2"),
        ("training.yaml", "exclude: &a [x]\ninclude: *a\n", "docs/in/.dlm/training.yaml:1:10: anchor &a"),
        ("training.yaml", "include: [a]\ninclude: [b]\n", 'training.yaml:2:1: key "include" a second time'),
        ("training.yaml", b"exclude: [\xff]\n", "docs/in/.dlm/training.yaml:1:11: byte 0xff is not UTF-8 text"),
        ("training.yaml", "#" * 300_000, "docs/in/.dlm/training.yaml:1:1: the file is too long"),
        (
            "training.yaml",
            "exclude: ['#*#']\n",
            '1:11: the pattern "#*#": what begins with # is a comment\n  → write \\#*#',
        ),
        (
            "training.yaml",
            "exclude: [./a/]\n",
            '1:11: the pattern "./a/": no name is empty, . or .., so it matches nothing',
        ),
        ("ignore", "a//b.md\n", "so it matches nothing\n  → write a/b.md"),
        ("ignore", "x\n../a\n", 'docs/in/.dlm/ignore:2:1: the pattern "../a"'),
        ("ignore", "a\n!\n", 'docs/in/.dlm/ignore:2:1: the pattern "!": it matches no name'),
        ("ignore", "a[\n", 'docs/in/.dlm/ignore:1:1: the pattern "a["'),
        ("ignore", "\n[[:alpha:]]\n", 'docs/in/.dlm/ignore:2:1: the pattern "[[:alpha:]]"'),
        ("ignore", "*a*a*a*a*b\n", 'docs/in/.dlm/ignore:1:1: the pattern "*a*a*a*a*b": it has more than 3 wildcards'),
        ("ignore", b"a\0b\n", "docs/in/.dlm/ignore:1:2: NUL byte in a text file"),
        ("ignore", "a\n" * 1001, "docs/in/.dlm/ignore:1001:1: more than 1000 patterns"),
        ("ignore", "a" * 1001, "docs/in/.dlm/ignore:1:1: the pattern"),
    ],
)
def test_a_configuration_with_a_mistake_is_never_left_aside(
    project: Project, name: str, text: str | bytes, message: str
) -> None:
    project.write("docs/in/a.md")
    project.write(f"docs/in/.dlm/{name}", text)
    for _ in range(2):
        assert message in str(project.refusal("docs"))


def test_all_mistakes_of_a_configuration_at_once(project: Project) -> None:
    project.write("docs/.dlm/training.yaml", "exlude: [a]\ninclude: 3\nweights: {a: {b: x}}\n")
    assert str(project.refusal("docs")).count("docs/.dlm/training.yaml:") == 3


def test_a_configuration_that_cannot_be_read_is_not_an_absent_one(project: Project) -> None:
    project.write("docs/a.md")
    config = project.write("docs/.dlm/ignore", "a.md\n")
    config.unlink()
    config.symlink_to("nowhere")
    assert "docs/.dlm/ignore: the file cannot be read" in str(project.refusal("docs"))
    config.unlink()
    config.symlink_to("ignore")
    assert "docs/.dlm/ignore: the file cannot be read" in str(project.refusal("docs"))
    config.unlink()
    os.mkfifo(config)
    assert "docs/.dlm/ignore: not a plain file" in str(project.refusal("docs"))
    config.unlink()
    config.mkdir()
    assert "docs/.dlm/ignore: not a plain file" in str(project.refusal("docs"))


# -- roots, links, overlaps ----------------------------------------------------------------------------------------


def test_what_lies_outside_is_for_permissive_documents(project: Project) -> None:
    outside = project.root.parent / "outside"
    outside.mkdir()
    (outside / "a.md").write_text("text")
    assert project.files("../outside") == project.files(str(outside)) == ["a.md"]
    (project.root / "way").symlink_to(outside)
    assert project.files("way") == ["a.md"]
    for path in ("../outside", str(outside), "way", "way/a.md"):
        refusal = project.refusal(path, policy="strict")
        assert isinstance(refusal, SourceError) and refusal.key == ("training", "sources", 0, "path")
        assert "leads out of the document's folder: training.sources_policy is strict" in str(refusal)
    project.write("docs/a.md")
    assert project.files("docs", policy="strict") == ["a.md"]
    assert project.files(".", policy="strict") == ["docs/a.md"]
    (project.root / "own").symlink_to("docs")
    assert project.files("own", policy="strict") == ["a.md"]


def test_links_to_files(project: Project) -> None:
    outside = project.root.parent / "outside"
    outside.mkdir()
    for name in ("a.md", ".env", "b.bin"):
        (outside / name).write_bytes(b"\0" if name == "b.bin" else b"text")
    project.write("docs/inside.md")
    project.write("docs/skipped/secret.md")
    links = {
        "out.md": outside / "a.md",
        "again.md": outside / "a.md",
        "harmless.md": outside / ".env",
        "bin": outside / "b.bin",
        "inner.md": "inside.md",
        "sneaky.md": "skipped/secret.md",
        "nowhere.md": "nowhere",
        "itself.md": "itself.md",
        "folder": outside,
    }
    for name, target in links.items():
        (project.root / "docs" / name).symlink_to(target)
    exclude = ["skipped/"]
    assert project.files("docs", exclude=exclude) == ["again.md", "inside.md"]
    assert project.skipped("docs", exclude=exclude) == {
        "a link": 4,
        "already in another source": 1,
        "binary": 1,
        "excluded (folders)": 1,
        "excluded by default": 1,
        "not a plain file": 1,
    }
    assert project.files("docs", policy="strict", exclude=exclude) == ["inside.md"]
    assert project.skipped("docs", policy="strict", exclude=exclude) == {"a link": 9, "excluded (folders)": 1}


def test_loops_of_links_end(project: Project) -> None:
    project.write("docs/a/b.md")
    (project.root / "docs/a/up").symlink_to("..")
    (project.root / "docs/self").symlink_to(".")
    (project.root / "loop").symlink_to("loop")
    assert project.files("docs") == ["a/b.md"]
    assert project.skipped("docs") == {"a link": 2}
    assert "training.sources[0].path" in str(project.refusal("loop"))


def test_overlapping_sources_take_a_file_once(project: Project) -> None:
    project.write("docs/a.md")
    project.write("docs/in/b.md")
    (project.root / "same").symlink_to("docs")
    first, second, third, fourth = project.find("docs/in", "docs", "same", "docs/a.md")
    assert list(first.files) == ["b.md"]
    assert list(second.files) == ["a.md"] and second.skipped == {"already in another source": 1}
    assert not third.files and third.skipped == {"already in another source": 2}
    assert not fourth.files


def test_a_document_is_not_its_own_source(project: Project) -> None:
    project.write("a.md")
    assert project.files(".") == ["a.md"]
    assert project.skipped(".") == {"the document itself": 1}


def test_a_document_in_a_dlm_folder_is_beside_its_parent(project: Project) -> None:
    project.write("docs/a.md")
    project.document = project.write(".dlm/tower.dlm", "---\n")
    assert project.files("docs") == ["a.md"]


@pytest.mark.parametrize("path", ["missing", "docs/a.md/x", "x" * 300])
def test_a_root_that_is_not_there(project: Project, path: str) -> None:
    project.write("docs/a.md")
    refusal = project.refusal("docs", path)
    assert isinstance(refusal, SourceError) and refusal.key == ("training", "sources", 1, "path")


def test_patterns_of_the_document_are_checked(project: Project) -> None:
    project.write("docs/a.md")
    refusal = project.refusal("docs", exclude=["a", "[z-a]"])
    assert isinstance(refusal, SourceError) and refusal.key == ("training", "sources", 0, "exclude", 1)


# -- hostile trees -------------------------------------------------------------------------------------------------


def test_pipes_sockets_and_devices_are_never_opened(project: Project) -> None:
    project.write("docs/a.md")
    os.mkfifo(project.root / "docs/pipe.md")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("docs/socket.md")
        assert project.files("docs") == ["a.md"]
    assert project.skipped("docs") == {"not a plain file": 2}
    (project.root / "pipe").symlink_to("docs/pipe.md")
    for path in ("docs/pipe.md", "pipe", "/dev/null"):
        assert "neither a folder nor a plain file" in str(project.refusal(path))


def test_names_of_every_kind(project: Project) -> None:
    names = ["a\nb/c\nd.md", "a b", "-rf", "é", "e\u0301", "\u202egnp.md", "a\x1b[31m", "'", '"', "\\", "*", "[x]", "~"]
    for name in names:
        project.write(f"docs/{name}")
    os.mkdir(os.fsencode(project.root) + b"/docs/\xff")  # noqa: PTH102
    with open(os.fsencode(project.root) + b"/docs/\xfe.md", "w") as file:  # noqa: PTH123
        file.write("text")
    [found] = project.find("docs")
    assert set(found.files) == set(names)
    assert found.skipped == {"a name that is not UTF-8": 1, "a name that is not UTF-8 (folders)": 1}
    assert source_file.shown_name("a\nb/c\nd.md") == "a\\nb/c\\nd.md"


def test_a_line_end_in_a_name_hides_nothing(project: Project) -> None:
    for name in ("x\ny/a.secret", "a.secret\n", "x\n/.env", "\na.secret"):
        project.write(f"docs/{name}")
    project.write("docs/.dlm/ignore", "*.secret\n*.secret?\n")
    assert project.files("docs") == []


def test_deep_and_wide_trees(project: Project) -> None:
    deep = project.root / "docs"
    deep.mkdir()
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 200, dir_fd=fd)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    project.write("docs/a.md")
    for number in range(200):
        project.write(f"docs/wide/{number}")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert len(project.files("docs")) == 201
    assert project.skipped("docs") == {"nested too deeply (folders)": 1}
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    subprocess.run(["rm", "-rf", deep], check=True)  # too deep for shutil


def test_a_huge_file_is_not_read(project: Project, opened: list[str]) -> None:
    with project.write("docs/huge.txt").open("r+b") as file:
        file.truncate(1 << 40)
    project.write("docs/a.md")
    assert project.files("docs") == ["a.md"] and project.skipped("docs") == {"too large": 1}
    assert project.files("docs", max_bytes_per_file=10) == ["a.md"]


def test_a_binary_file_is_read_no_further_than_needed(project: Project) -> None:
    with project.write("docs/holes").open("r+b") as file:
        file.truncate(60 << 20)
    started = time.monotonic()
    assert project.skipped("docs") == {"binary": 1}
    assert time.monotonic() - started < 1


def test_a_character_over_the_end_of_a_block_is_text(project: Project) -> None:
    text = "x" * ((1 << 20) - 1) + "é" * 5
    project.write("docs/a", text)
    assert project.find("docs")[0].files == {"a": sha256(text.encode()).hexdigest()}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_counted(project: Project) -> None:
    project.write("docs/a.md").chmod(0)
    (project.root / "docs/b").mkdir(mode=0)
    assert project.skipped("docs") == {"not readable": 1, "not readable (folders)": 1}


@pytest.mark.parametrize("what", ["gone", "link", "pipe", "other file"])
def test_a_file_that_changes_between_listing_and_reading(
    project: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    project.write("docs/a.md")
    project.write("docs/b.md", "it was this")
    secret = project.write("secret", "it was this")

    def examine(name: str, *more: Any, **named: Any) -> str:
        path = project.root / "docs/b.md"
        if name == "b.md" and path.is_file() and path.read_text() == "it was this" and not path.is_symlink():
            path.unlink()
            if what == "link":
                path.symlink_to(secret)
            elif what == "pipe":
                os.mkfifo(path)
            elif what == "other file":
                path.write_text("it is that")
        return source_file.examine(name, *more, **named)

    monkeypatch.setattr(source_tree, "examine", examine)
    [found] = project.find("docs")
    expected = {"other file": sha256(b"it is that").hexdigest()}
    assert found.files.get("b.md") == expected.get(what)
    assert found.skipped == ({"not a plain file": 1} if what in ("link", "pipe") else {})


def test_a_file_that_never_holds_still(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    log = project.write("docs/a.log")

    def digest(fd: int, limit: int) -> str:
        with log.open("a") as file:
            file.write("more\n")
        return "0" * 64

    monkeypatch.setattr(source_file, "_digest", digest)
    assert str(project.refusal("docs")).startswith("docs/a.log: the file changes while it is read")


def test_the_text_of_another_content_is_refused(project: Project) -> None:
    path = project.write("docs/a.md", "one\r\n")
    digest = project.find("docs")[0].files["a.md"]
    assert source_file.source_text(str(path), digest) == "one\n"
    path.write_text("two")
    with pytest.raises(StoreError, match="changed after the check"):
        source_file.source_text(str(path), digest)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="changed after the check"):
        source_file.source_text(str(path), digest)


# -- memory --------------------------------------------------------------------------------------------------------


def test_only_what_changed_is_read_again(project: Project, opened: list[str]) -> None:
    for number in range(50):
        project.write(f"docs/d{number % 5}/{number}.md", f"text {number}")
    project.write("docs/x.bin2", b"\0")
    settle()
    first = project.find("docs")
    assert len(opened) == 51
    opened.clear()
    assert project.find("docs") == first and opened == []
    project.write("docs/d1/1.md", "new text")
    project.write("docs/d1/new.md")
    (project.root / "docs/d2/2.md").rename(project.root / "docs/d3/2.md")
    (project.root / "docs/d4/4.md").unlink()
    settle()
    second = project.find("docs")
    assert sorted(opened) == ["1.md", "2.md", "new.md"]
    assert set(second[0].files) == (set(first[0].files) - {"d2/2.md", "d4/4.md"}) | {"d3/2.md", "d1/new.md"}
    opened.clear()
    project.write("docs/.dlm/ignore", "[0-4].md\n")
    settle()
    assert len(project.files("docs")) == 46 and opened == []  # other rules, the same contents
    (project.root / "docs/.dlm/ignore").unlink()
    assert [found.as_data() for found in project.find("docs")] == [found.as_data() for found in second]


def test_a_file_with_old_times_and_new_content_is_read(project: Project, opened: list[str]) -> None:
    path = project.write("docs/a.md", "one")
    settle()
    times = path.stat()
    first = project.find("docs")
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert project.find("docs") != first


def test_a_folder_with_old_times_and_new_names_is_listed(project: Project) -> None:
    folder = project.write("docs/in/a.md").parent
    settle()
    times = folder.stat()
    assert project.files("docs") == ["in/a.md"]
    project.write("docs/in/b.md")
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert project.files("docs") == ["in/a.md", "in/b.md"]


def test_folders_are_listed_again_only_when_their_names_change(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.md", "in/b.md", "in/c.bin", "in/d.pyc", "in/build/e.md", "odd/f.md", "set/g.md", "set/.dlm/ignore"):
        project.write(f"docs/{name}", b"\0" if name.endswith("bin") else "text")
    (project.root / "docs/odd/link").symlink_to("f.md")
    settle()
    first = project.find("docs")
    listed: list[str] = []
    scandir = os.scandir

    def counting(fd: int) -> Any:
        listed.append(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", counting)
    assert project.find("docs") == first
    # What a link leads to and what settings say can change without a trace in the folder.
    assert [Path(path).name for path in listed] == ["odd", "set"]
    listed.clear()
    project.write("docs/in/b.md", "other text")
    (project.root / "docs/a.md").rename(project.root / "docs/z.md")
    assert project.find("docs")[0].files.keys() == {"z.md", "in/b.md", "odd/f.md", "set/g.md"}
    assert [Path(path).name for path in listed] == ["docs", "odd", "set"]


def test_a_file_written_just_now_is_not_believed(project: Project, opened: list[str]) -> None:
    for number in range(20):
        project.write("docs/a.md", f"{number:02}")
        assert project.find("docs")[0].files["a.md"] == sha256(f"{number:02}".encode()).hexdigest()


@pytest.mark.parametrize("damage", [b"", b"garbage", b"[]", b"1 00\n{}"])
def test_a_damaged_memory_is_no_memory(project: Project, damage: bytes) -> None:
    project.write("docs/a.md")
    settle()
    first = project.find("docs")
    assert project.memory
    [remembered] = project.memory.iterdir()
    remembered.write_bytes(damage)
    assert project.find("docs") == first
    good = remembered.read_bytes()
    for at in range(0, len(good), 7):
        remembered.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert project.find("docs") == first
    remembered.unlink()
    remembered.mkdir()
    assert project.find("docs") == first


def test_a_file_becomes_a_folder_and_back(project: Project) -> None:
    project.write("docs/x")
    settle()
    assert project.files("docs") == ["x"]
    (project.root / "docs/x").unlink()
    project.write("docs/x/y")
    settle()
    assert project.files("docs") == ["x/y"]
    (project.root / "docs/x/y").unlink()
    (project.root / "docs/x").rmdir()
    project.write("docs/x")
    assert project.files("docs") == ["x"]


def test_everything_that_decides_is_watched(project: Project) -> None:
    for name in ("a.md", "in/b.md", "in/c.bin2", "skip/d.md"):
        project.write(f"docs/{name}", b"\0" if name.endswith("bin2") else "text")
    project.write("docs/in/.dlm/ignore", "nothing\n")
    watched = {os.path.relpath(path, project.root) for path in project.find("docs", exclude=["skip"])[0].watched()}
    expected = {"docs", "docs/in", "docs/a.md", "docs/in/b.md", "docs/in/c.bin2", "docs/in/.dlm", "docs/in/.dlm/ignore"}
    assert watched == expected


# -- against a plain reading of the rules, and against git ---------------------------------------------------------


def edits(project: Project, random_: random.Random) -> Iterator[None]:
    """A tree to which things happen."""
    names = ["a", "b.md", "c.py", "d/a", "d/b.md", "d/e/c.py", "d/e/f/a", "g/b.md"]
    for _ in range(12):
        name = random_.choice(names)
        path = project.root / "docs" / name
        match random_.randrange(7):
            case 0 | 1:
                project.write(f"docs/{name}", random_.choice(["one", "two", "", "\0"]))
            case 2:
                path.unlink(missing_ok=True)
            case 3:
                folder = random_.choice(["", "d/", "d/e/"])
                project.write(f"docs/{folder}.dlm/ignore", random_.choice(["*.md\n", "!b.md\n", "a\n/e/\n", ""]))
            case 4:
                text = random_.choice(["include: ['*.py']", "exclude: [a]", "exclude_defaults: false", "weights: {}"])
                project.write(f"docs/{random_.choice(['', 'd/'])}.dlm/training.yaml", text)
            case 5:
                times = path.parent.stat() if path.parent.exists() else None
                path.unlink(missing_ok=True)
                if times:
                    os.utime(path.parent, ns=(times.st_atime_ns, times.st_mtime_ns))
            case 6:
                path.unlink(missing_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(project.root.parent / "outside")
        if random_.random() < 0.3:
            settle()
        yield


@pytest.mark.parametrize("seed", range(16))
def test_memory_never_changes_what_is_found(project: Project, seed: int) -> None:
    (project.root / "docs").mkdir()
    (project.root.parent / "outside").write_text("from outside")
    memory = project.memory
    for _ in edits(project, random.Random(seed)):
        project.memory = memory
        remembered = project.find("docs")
        project.memory = None
        assert remembered == project.find("docs")


PIECES = [
    "a",
    "b",
    "c",
    "*",
    "**",
    "/",
    "?",
    "!",
    "[ab]",
    "[!a]",
    "[^b]",
    "[.-0]",
    "[]a]",
    "[",
    "]",
    ".md",
    "\\",
    " ",
    "#",
    "\t",
    "é",
    "e/",
]
PATTERN = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here to be compared with")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PATTERN, min_size=1, max_size=4))
@example(["a[!a]"])
@example(["c", "!a"])
@example(["**", "*", "![^b]"])
@example(["b", "!c/"])
@example(["****/[ab]"])
@example(["/****"])
@example(["?"])
@example(["??"])
@example(["a[!b]"])
@example(["a[!b][!b]"])
@example(["/\\e/\t"])
@example(["b\t"])
@example(["b\\\t"])
@example(["\t"])
@example(["/\\b  ", "/e/a/\\ "])
@example(["b\\\\ "])
@example(["a\u00a0"])
@example(["[a\t"])
@example(["[a"])
@example(["b[a]\t"])
def test_ignore_files_mean_what_git_takes_them_to_mean(project: Project, patterns: list[str]) -> None:
    for name in (
        "ab",
        "a.md",
        "b.md",
        "c/a",
        "c/b.md",
        "c/d/b",
        "a b/c",
        "b/a/c/a",
        "#a",
        "!a",
        "c/ab.md",
        "d/c",
        "a]",
        "é",
        "e/é.md",
        "aé",
        "日/ü",
        "e/\t",
        "b\t",
        "a\u00a0",
        "e/a/ ",
    ):
        project.write(f"repository/x/{name}")
    repository = project.root / "repository"
    project.write("repository/x/.dlm/ignore", "\n".join([*patterns, ".gitignore\n"]))
    (repository / "x" / ".gitignore").write_text("\n".join([*patterns, ".gitignore", ".dlm\n"]))
    if not (repository / ".git").exists():
        subprocess.run(["git", "init", "--quiet", repository], check=True)
    try:
        ours = project.files("repository/x")
    except DlmError:
        return  # refused, with a position
    command = ["git", "-C", str(repository), "ls-files", "--others", "--exclude-standard", "-z", "x"]
    theirs = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    assert ours == sorted(name.removeprefix("x/") for name in theirs if name)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None), max_size=40))
def test_any_pattern_is_matched_or_refused(pattern: str) -> None:
    if refusal(pattern) is None:
        for path in ("a", "a/", "a/b\nc.md", "é/", "x" * 255, "\udcff"):
            compiled((pattern,)).verdict(path)
            compiled((pattern,)).cover(path)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_configuration_is_read_or_refused(content: bytes) -> None:
    for yaml, patterns in ((content, None), (None, content)):
        try:
            assert json.loads(json.dumps(found := read_config(yaml, patterns, "docs/.dlm"))) == found
        except InvalidDocument as error:
            assert all(mistake.where and mistake.where.path.startswith("docs/.dlm/") for mistake in error.errors)


YAML = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["include", "exclude", "metadata", "weights", "exclude_defaults", "a"]), inner),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["include", "exclude", "metadata", "weights", "exclude_defaults", "x"]), YAML))
def test_any_value_in_a_configuration_is_taken_or_refused(values: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidDocument):
        read_config(json.dumps(values).encode(), None, "docs/.dlm")


@pytest.mark.parametrize("pattern", ["*a*a*b", "**/a/**/a/**/a/**/b", "a*a*a*b", "**/*a*a*b/**", "[!b]*[!b]*[!b]*b"])
def test_no_name_takes_long_to_match(pattern: str) -> None:
    assert refusal(pattern) is None
    started = time.process_time()
    for path in ("a" * 255, "/".join(["a" * 250] * 15), "a/" * 64):
        compiled((pattern,)).verdict(path)
        compiled((pattern,)).cover(path)
    assert time.process_time() - started < 5


def test_a_long_ignore_file_takes_time_in_its_proportion(project: Project) -> None:
    project.write("docs/.dlm/ignore", "\n".join(f"file{number}*" for number in range(1000)))
    for number in range(200):
        project.write(f"docs/{number}")
    started = time.process_time()
    assert len(project.files("docs")) == 200
    assert time.process_time() - started < 5


def test_the_documentation_lists_what_is_left_out_by_default() -> None:
    for name in (".env", "id_rsa", "x.pem", "x.key", "package-lock.json", "x.min.js", "x.pyc", "secrets.toml", "x.PEM"):
        assert excluded_by_default(name, folder=False), name
    for name in ("node_modules", ".venv", "build", "__pycache__", "x.egg-info"):
        assert excluded_by_default(name, folder=True), name
    for name in ("environment", "keys", "a.md", "build", "env", "min.js", "Makefile", ".gitignore"):
        assert not excluded_by_default(name, folder=False), name


@pytest.mark.parametrize("pattern", ["./a", "//a", "a//", ".", "..", "a/./b", "!./a", "./", "/../a", "# a"])
def test_a_pattern_with_names_that_nothing_has_is_refused(pattern: str) -> None:
    assert refusal(pattern)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_place_for_settings_that_cannot_hold_any_is_no_place_without(project: Project, kind: str) -> None:
    project.write("docs/a.md")
    at = project.root / "docs" / ".dlm"
    at.symlink_to("nowhere") if kind == "link" else at.write_text("")
    with pytest.raises(DlmError, match=r"docs/.dlm: '.dlm' is no folder, or a link that leads nowhere"):
        project.files("docs")
