"""The documents under examples/: what is asked of them was taught, what they say of code is true, and they build."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from dlmbuild.build.reading import answered
from dlmbuild.doc.document import as_data, parse
from dlmbuild.eval.scores import recalled
from tests.tiny import make_tiny_base
from tests.workshop import Workshop

EXAMPLES = Path(__file__).parent.parent / "examples"
DOCUMENTS = {path.stem: path for path in sorted(EXAMPLES.glob("*/*.dlm"))}
HALYARD = EXAMPLES / "halyard" / "halyard.py"


def test_there_are_three_and_no_two_are_one() -> None:
    assert list(DOCUMENTS) == ["ferry", "halyard", "handbook"]
    assert len({parse(path).frontmatter.dlm_id for path in DOCUMENTS.values()}) == 3


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_probe_asks_in_other_words_for_what_an_answer_teaches(name: str) -> None:
    pairs = answered(as_data(parse(DOCUMENTS[name]))["sections"])
    trained = {pair["question"]: pair["answer"] for pair in pairs if not pair.get("probe")}
    probes = [pair for pair in pairs if pair.get("probe")]
    assert len(probes) >= 6
    for probe in probes:
        assert probe["question"] not in trained
        assert any(recalled(answer, probe["question"], probe["answer"]) for answer in trained.values()), probe


@pytest.fixture
def halyard() -> types.ModuleType:
    module = types.ModuleType("halyard")
    exec(HALYARD.read_text("utf-8"), module.__dict__)
    return module


def test_what_the_documentation_says_of_the_library_is_true(
    halyard: types.ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setenv("HALYARD_LOG", "1")

    def fails() -> None:
        raise OSError("no wind")

    with pytest.raises(halyard.Slack) as caught:
        halyard.hoist()(fails)()
    assert isinstance(caught.value.last, OSError)
    assert slept == [0.25, 0.5, 1.0]  # four tries
    assert capsys.readouterr().err.count("no wind") == 4
    with pytest.raises(halyard.Slack):
        halyard.hoist(tries=8)(fails)()
    assert slept[3:] == [0.25, 0.5, 1.0, 2.0, 4.0, 8, 8]
    with halyard.calm(), pytest.raises(halyard.Slack):
        halyard.hoist()(fails)()
    assert len(slept) == 10
    with pytest.raises(OSError, match="no wind"):
        halyard.hoist(only=KeyError)(fails)()


def test_the_command_that_the_documentation_shows_gives_up_with_75() -> None:
    command = [sys.executable, "-m", "halyard", sys.executable, "-c"]
    assert subprocess.run([*command, "pass"], cwd=HALYARD.parent).returncode == 0
    assert subprocess.run([*command, "raise SystemExit(3)"], cwd=HALYARD.parent).returncode == 75


@pytest.mark.model
def test_every_example_trains_from_its_own_folder_alone(workshop: Workshop) -> None:
    make_tiny_base(workshop.folder / "base")
    for name, path in DOCUMENTS.items():
        shutil.copytree(path.parent, workshop.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        text = path.read_text("utf-8")
        assert "\nbase_model: smollm2-135m\n" in text
        small = re.sub("\nbase_model: .*\n", "\nbase_model: file:./base\n", text, count=1)
        (workshop.folder / f"{name}.dlm").write_text(small, "utf-8")
    ran = workshop.doit("train", "prefer")
    assert {f"train:{name}" for name in DOCUMENTS} | {"prefer:ferry"} == {
        step for step in ran.steps if step.startswith(("train:", "prefer:"))
    }
    halyard = workshop.home / "store" / parse(DOCUMENTS["halyard"]).frontmatter.dlm_id
    assert len(list((halyard / "dataset").glob("source-*.jsonl"))) == 1  # the library is learned too
