"""The note of a build that had nothing to do: whatever could make it untrue is seen."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from dlmbuild.doc.names import VERBS
from tests.history import History
from tests.workshop import Workshop

OWN = """
def task_own():
    return {"actions": ["cp template.txt out.txt"], "file_dep": ["template.txt"], "targets": ["out.txt"]}
"""


PLAIN = 'from dlmbuild.rules import project\nglobals().update(project("*.dlm"))\n'
FAKE = "import fake_jobs\n" + PLAIN
"""Replaces the heavy jobs (tests/history.py), and stays as plain as it was."""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    history = History(tmp_path_factory.mktemp("origin"), 0)
    assert history.build() == ""
    (history.shop.folder / "dodo.py").write_text(FAKE)
    shutil.rmtree(history.shop.home / "uptodate")
    return history.shop


@pytest.fixture
def shop(origin: Workshop, tmp_path: Path) -> Workshop:
    """A built project whose last run has left a note."""
    shop = Workshop(tmp_path / "project", tmp_path / "home")
    shutil.copytree(origin.folder, shop.folder)
    shutil.copytree(origin.home, shop.home)
    for _ in range(2):
        assert shop.doit().steps == []
    return shop


def up_to_date(shop: Workshop, **environment: str) -> list[bool]:
    ran = [shop.dlm("build", code=None, **environment), shop.doit(code=None, **environment)]
    return ["everything is up to date" in one.out for one in ran]


def test_a_true_note_answers_without_the_graph(shop: Workshop) -> None:
    for script in ("doit", "dlm"):
        words = ("build",) if script == "dlm" else ()
        ran = shop.run(script, *words, PYTHONPROFILEIMPORTTIME="1")
        assert "everything is up to date" in ran.out and "dlmbuild.build.project" not in ran.err


def add_a_link(shop: Workshop) -> None:
    (shop.folder.parent / "outside.json").write_text("{}")
    (shop.folder / "base" / "extra.json").symlink_to(shop.folder.parent / "outside.json")


def edit_the_lock(shop: Workshop) -> None:
    (lock,) = shop.home.glob("store/*/dlm.lock")
    lock.write_text(lock.read_text().replace("cores = ", "cores = 1"))


SEEN: dict[str, Callable[[Workshop], object]] = {
    "a file in the base folder": lambda shop: (shop.folder / "base" / "generation_config.json").write_text("{}"),
    "a link out of the base folder": add_a_link,
    "the lock of the store": edit_the_lock,
    "another dodo.py": lambda shop: (shop.folder / "dodo.py").write_text(
        'from dlmbuild.rules import project\nglobals().update(project("no/*.dlm"))\n'
    ),
}


@pytest.mark.parametrize("what", SEEN)
def test_what_changes_is_seen(shop: Workshop, what: str) -> None:
    SEEN[what](shop)
    assert up_to_date(shop)[0] is False  # and then it is brought up to date


def test_a_folder_that_becomes_a_document_is_seen(shop: Workshop) -> None:
    (shop.folder / "late.dlm").mkdir()
    shop.doit("check")
    shop.doit("check")
    (shop.folder / "late.dlm").rmdir()
    text = (shop.folder / "tower.dlm").read_text()
    (shop.folder / "late.dlm").write_text(text.replace("01HZX3Q5J8K9M2N4P6R8T0V2W4", "01HZX3Q5J8K9M2N4P6R8T0V2W5"))
    assert "check:late" in shop.doit("check").steps


def test_the_environment_and_the_machine_are_part_of_the_note(shop: Workshop) -> None:
    assert shop.doit(code=None, DLM_PRE_TOKENIZER="abc=llama-bpe").steps != []
    assert up_to_date(shop, DLM_LOCK="ignore") == [False, True]  # another note, which is written now


def test_a_dodo_file_that_computes_is_always_run(shop: Workshop) -> None:
    (shop.folder / "dodo.py").write_text(
        'import os\nfrom dlmbuild.rules import project\nglobals().update(project(os.environ.get("WHAT", "*.dlm")))\n'
    )
    for _ in range(3):
        shop.doit()
    assert "everything is up to date" not in shop.dlm("build", code=None, WHAT="no/*.dlm").out


def test_tasks_of_the_persons_own_are_compared_as_doit_does(shop: Workshop) -> None:
    with (shop.folder / "dodo.py").open("a") as dodo:
        dodo.write(OWN)
    template, out = shop.folder / "template.txt", shop.folder / "out.txt"
    for content in ("old", "new, and longer"):
        template.write_text(content)
        shop.doit("own")
        assert out.read_text() == content
        os.utime(template)
        out.write_text("kept")
        shop.doit("own")
        assert out.read_text() == "kept"  # its input says what it said
    assert "which doit decides about" in shop.doit("why", "own", code=None).out


def quick(shop: Workshop, **environment: str) -> bool:
    """Whether `dlm build` answers without doit."""
    ran = shop.dlm("build", PYTHONPROFILEIMPORTTIME="1", **environment)
    return "everything is up to date (12 steps)" in ran.out and "doit.task" not in ran.err


def test_what_doit_is_told_about_tasks_counts_at_once(shop: Workshop) -> None:
    smoke = "smoke:tower:Q4_K_M"
    shop.doit("ignore", smoke)
    for _ in range(2):
        for script in ("dlm", "doit"):
            out = shop.run(script, *(["build"] if script == "dlm" else [])).out
            assert f"- {smoke}  ignored" in out and "what is not ignored is up to date (10 steps)" in out
    for command in (["forget", smoke], ["reset-dep"], ["-a"], ["forget", "-a"]):
        shop.doit(*command)
        assert "everything is up to date (12 steps)" in shop.dlm("build").out
    assert quick(shop)
    for script in ("dlm", "doit"):
        shop.doit("clean")
        assert shop.run(script, *(["build"] if script == "dlm" else [])).restored == ["export:tower:Q4_K_M"]


def test_a_copied_home_is_looked_at_itself(shop: Workshop) -> None:
    shutil.copytree(shop.home, shop.home.with_name("copy"))
    copy = Workshop(shop.folder, shop.home.with_name("copy"))
    assert not quick(copy) and quick(copy)
    shutil.rmtree(copy.store / "exports")
    assert copy.dlm("build").restored == ["export:tower:Q4_K_M"]


def test_what_dodo_imports_from_beside_it_is_looked_at(shop: Workshop) -> None:
    conf = shop.folder / "conf.py"
    conf.write_text("import dlmbuild.rules\n")
    (shop.folder / "dodo.py").write_text("import conf\n" + FAKE)
    shop.doit()
    assert quick(shop)
    conf.write_text("import dlmbuild.rulez\n")
    os.utime(conf, (1, 1))
    assert "dlmbuild.rulez" in shop.dlm("build", code=None).err


DODOS = {
    "another project": ("from conf import project\n" + PLAIN.partition("\n")[2], "def project(*words): return {}"),
    "another name for it": ("import conf as globals\n" + PLAIN, ""),
    "one of its own": (PLAIN.replace("globals", "def project(*words):\n    return {}\nglobals"), ""),
    "everything": (PLAIN.replace("globals", "from conf import *\nglobals"), ""),
}


@pytest.mark.parametrize("what", DODOS)
def test_words_of_the_dodo_file_that_mean_something_else_are_no_plain_ones(shop: Workshop, what: str) -> None:
    dodo, conf = DODOS[what]
    (shop.folder / "conf.py").write_text(conf)
    (shop.folder / "dodo.py").write_text(dodo)
    for _ in range(2):
        assert "doit.task" in shop.dlm("build", code=None, PYTHONPROFILEIMPORTTIME="1").err


def test_tasks_of_the_persons_own_are_made_anew_each_time(shop: Workshop) -> None:
    """Their code may look at anything, and one that makes a document comes before it."""
    with (shop.folder / "dodo.py").open("a") as dodo:
        dodo.write(
            "\ndef task_fetch():\n    import pathlib\n    for path in pathlib.Path('texts').glob('*.md'):\n"
            "        yield {'name': path.stem, 'file_dep': [path], 'targets': [path.stem + '.dlm'],\n"
            "               'actions': ['cat %(dependencies)s > %(targets)s']}\n"
        )
    (shop.folder / "texts").mkdir()
    for _ in range(2):
        assert "everything is up to date (12 steps)" in shop.dlm("build").out
    text = (shop.folder / "tower.dlm").read_text().replace("in fog", "at noon")
    (shop.folder / "texts" / "tower.md").write_text(text)
    assert "train:tower" in shop.dlm("build").steps and (shop.folder / "tower.dlm").read_text() == text


def test_a_task_called_build_is_not_the_word_build(shop: Workshop) -> None:
    with (shop.folder / "dodo.py").open("a") as dodo:
        dodo.write("\ndef task_build():\n    return {'actions': None, 'task_dep': ['check', 'pack']}\n")
    shop.doit()
    shop.doit()
    assert "pack:tower" in shop.doit("build", code=None).steps
    shop.doit("build")
    shutil.rmtree(shop.store / "exports")
    assert shop.dlm("build").restored == ["export:tower:Q4_K_M"]


def test_a_program_that_calls_doit_leaves_and_believes_no_note_of_another_selection(shop: Workshop) -> None:
    program = shop.folder.parent / "program.py"
    program.write_text("import sys\nfrom doit.doit_cmd import DoitMain\nsys.exit(DoitMain().run(['pack']))\n")
    assert "✓ pack:tower" in shop.shell(f"python {program}", code=0).out
    shop.edit("tower", "# The lighthouse", "# The  lighthouse")
    assert "✓ pack:tower" in shop.shell(f"python {program}", code=0).out
    assert "export:tower:Q4_K_M" in shop.dlm("build").steps


OTHER = """
DOIT_CONFIG = {"dep_file": "other.db"}
def task_other():
    return {"actions": ["echo other ran"]}
"""


@pytest.mark.parametrize("file", ["doit.cfg", "pyproject.toml"])
def test_settings_of_doit_take_the_long_way(shop: Workshop, file: str) -> None:
    (shop.folder / "pyproject.toml").write_text("[project]\n")
    shop.dlm("build")
    assert quick(shop)
    (shop.folder / "other.py").write_text(OTHER)
    table = "GLOBAL" if file == "doit.cfg" else "tool.doit"
    text = f'[{table}]\ndodoFile = "other.py"\n'
    (shop.folder / file).write_text(text.replace('"', "") if file == "doit.cfg" else text)
    for _ in range(2):
        assert ".  other" in shop.dlm("build").out


def test_the_variables_of_doit_and_of_python_are_part_of_the_note(shop: Workshop) -> None:
    (shop.folder / "other.py").write_text(OTHER)
    for _ in range(2):
        assert ".  other" in shop.dlm("build", DOIT_FILE="other.py").out
    shop.dlm("build")
    assert quick(shop) and not quick(shop, PYTHONPATH=str(shop.folder.parent))


def note_of(shop: Workshop) -> Path:
    (note,) = (shop.home / "uptodate").iterdir()
    return note


def sealed(part: bytes) -> bytes:
    return b"%d %d\n%b" % (len(part), zlib.crc32(part), part)


BROKEN: dict[str, Callable[[bytes, bytes], bytes]] = {
    "nothing": lambda looks, graph: b"",
    "no graph": lambda looks, graph: looks,
    "half a graph": lambda looks, graph: looks + graph[:-200],
    "another count": lambda looks, graph: looks.replace(b"\x0011\0", b"\x0012\0") + graph,
    "no numbers": lambda looks, graph: b"many few\n" + graph,
    "more than the file holds": lambda looks, graph: b"%d 0\n" % 10**30 + graph,
    "less than nothing": lambda looks, graph: b"-1 0\n" + graph,
    "other looks": lambda looks, graph: sealed(b"\0" * 9) + graph,
    "no looks": lambda looks, graph: sealed(b"") + graph,
    "a deep graph": lambda looks, graph: looks + sealed(b"[" * 100_000),
    "tasks that are none": lambda looks, graph: (
        looks + sealed(json.dumps({"asked": [], "tasks": {'["*.dlm"]': ["x"]}}).encode())
    ),
}


def parts(note: Path) -> tuple[bytes, bytes]:
    data = note.read_bytes()
    size = data.index(b"\n") + 1 + int(data.split(b" ", 1)[0])
    return data[:size], data[size:]


def test_a_damaged_note_is_none(shop: Workshop) -> None:
    for what, broken in BROKEN.items():
        assert shop.doit().steps == [] and quick(shop), what
        note_of(shop).write_bytes(broken(*parts(note_of(shop))))
        assert up_to_date(shop) == [True, True], what
        shop.edit("tower", "# The lighthouse", "# The  lighthouse")
        assert "✓ check:tower" in shop.doit("check").out, what
        shop.edit("tower", "# The  lighthouse", "# The lighthouse")
        shop.doit()
        for path in (shop.home / "uptodate").iterdir():
            path.unlink()


def test_a_document_far_below_and_an_edit_that_hides_itself_are_seen(shop: Workshop) -> None:
    (shop.folder / "dodo.py").write_text(FAKE.replace("*.dlm", "**/*.dlm"))
    (shop.folder / "a" / "b").mkdir(parents=True)
    shop.doit()
    assert quick(shop)
    document = shop.folder / "tower.dlm"
    before = document.stat()
    document.write_text(document.read_text().replace("in fog", "at ten"))  # of the same length
    os.utime(document, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "train:tower" in shop.dlm("build").steps
    shop.dlm("build")
    assert quick(shop)
    (shop.folder / "a" / "b" / "c").mkdir()
    text = document.read_text().replace("01HZX3Q5J8K9M2N4P6R8T0V2W4", "01HZX3Q5J8K9M2N4P6R8T0V2W5")
    (shop.folder / "a" / "b" / "c" / "late.dlm").write_text(text.replace("./base", "../../../base"))
    assert "check:late" in shop.dlm("build", code=None).steps


def test_a_home_that_cannot_be_written_to_only_costs_the_note(shop: Workshop) -> None:
    shutil.rmtree(shop.home / "uptodate")
    (shop.home / "uptodate").write_text("no folder")
    for _ in range(2):
        assert up_to_date(shop) == [True, True]


def test_a_build_of_nothing_makes_no_home(workshop: Workshop) -> None:
    workshop.document("tower", base="smollm2-135m")
    assert "Traceback" not in workshop.doit("gate").err
    assert workshop.dlm("build", "gate").err == "" and not workshop.home.exists()


def test_the_verbs_are_those_of_the_stages() -> None:
    rules = Path(__file__).parents[1].glob("rules/*.py")
    assert {file.stem for file in rules if "\ndef tasks(" in file.read_text()} == set(VERBS)
