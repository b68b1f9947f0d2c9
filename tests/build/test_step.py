from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from doit.exceptions import TaskFailed

from dlmbuild.build.step import Archive, Step, Workplace
from dlmbuild.errors import DataError, Where
from dlmbuild.store.layout import Home, Store
from dlmbuild.store.outputs import Files
from dlmbuild.store.records import Record


class Bench:
    """A step that makes `upper.txt` of `source.txt`, and the step that makes `length.txt` of that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.source = folder / "source.txt"
        self.source.write_text("abc")
        self.settings: dict[str, Any] = {"suffix": "!"}
        self.built: list[str] = []
        self.told: list[bool] = []

    def upper(self, work: Callable[[Workplace], Mapping[str, Any]] | None = None, **changes: Any) -> Step:
        """The first step, as a fresh process would see it."""

        def make(place: Workplace) -> Mapping[str, Any]:
            self.built.append("upper")
            (place.out / "upper.txt").write_text(self.source.read_text().upper() + place.params["suffix"])
            return {"made": True}

        given: dict[str, Any] = {
            "name": "upper:doc",
            "rule": "upper/1",
            "inputs": {"source": self.source},
            "params": lambda: self.settings,
            "outputs": Files({"upper.txt": self.output}),
            "work": work or make,
            "store": Store(self.home.root / "store"),
            "archive": Archive(self.home),
            "done": lambda record, built: self.told.append(built),
        }
        return Step(**{**given, **changes})

    def length(self) -> Step:
        def make(place: Workplace) -> Mapping[str, Any]:
            self.built.append("length")
            (place.out / "length.txt").write_text(str(len(self.output.read_text())))
            return {}

        goal = Files({"length.txt": self.home.root / "store" / "length.txt"})
        return self.upper(make, name="length:doc", rule="length/1", inputs={"upper": self.output}, outputs=goal)

    @property
    def output(self) -> Path:
        return self.home.root / "store" / "upper.txt"

    def run(self) -> list[str]:
        """Run both steps as doit does; which of them were built?"""
        self.built.clear()
        for make in (self.upper, self.length):
            step = make()
            if not step.is_up_to_date():
                assert step.run() is None
                assert make().is_up_to_date()
        return list(self.built)

    def leftovers(self) -> list[str]:
        return [str(path) for path in self.home.root.rglob("*.staging")]

    def records(self) -> list[Path]:
        return list(self.home.records.rglob("*.json"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def message(failed: TaskFailed | None) -> str:
    assert isinstance(failed, TaskFailed)
    return str(failed.message)


# -- up to date ------------------------------------------------------------------------------------------------


def test_built_once(bench: Bench) -> None:
    assert not bench.upper().is_up_to_date()
    assert bench.run() == ["upper", "length"]
    assert bench.output.read_text() == "ABC!"
    assert bench.run() == []
    assert bench.told == [True, True]
    assert bench.leftovers() == []


def test_a_null_run_reads_no_content(bench: Bench) -> None:
    time.sleep(0.03)  # a file that was written in this instant is read again
    bench.run()
    step = bench.upper()
    assert step.is_up_to_date()
    assert step.archive.cache.bytes_hashed == 0


def test_touching_and_replacing_by_the_same_bytes_change_nothing(bench: Bench) -> None:
    bench.run()
    for path in (bench.source, bench.output):
        os.utime(path, (1, 1))
        path.with_suffix(".new").write_bytes(path.read_bytes())
        path.with_suffix(".new").replace(path)
    assert bench.run() == []


def test_a_changed_input_runs_and_the_old_one_is_restored(bench: Bench) -> None:
    bench.run()
    bench.source.write_text("abcd")
    assert bench.run() == ["upper", "length"]
    bench.source.write_text("abc")
    assert bench.run() == []
    assert bench.output.read_text() == "ABC!"
    assert bench.told == [True, True, True, True, False, False]


def test_early_cutoff(bench: Bench) -> None:
    bench.run()
    bench.source.write_text("ABC")
    assert bench.run() == ["upper"]


@pytest.mark.parametrize("change", ["params", "rule"])
def test_settings_and_the_rule_count_as_inputs(bench: Bench, change: str) -> None:
    bench.run()
    if change == "params":
        bench.settings["suffix"] = "?"
        assert not bench.upper().is_up_to_date()
    else:
        assert not bench.upper(rule="upper/2").is_up_to_date()


def test_other_names_for_the_same_things_change_nothing(bench: Bench) -> None:
    bench.run()
    renamed = bench.source.rename(bench.folder / "renamed.txt")
    assert bench.upper(name="upper:other", inputs={"source": renamed}).is_up_to_date()


@pytest.mark.parametrize("how", ["deleted", "edited", "emptied", "folder"])
def test_a_damaged_output_is_restored_not_built(bench: Bench, how: str) -> None:
    bench.run()
    if how == "edited":
        stat = bench.output.stat()
        bench.output.write_text("XYZ!")
        os.utime(bench.output, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif how == "emptied":
        bench.output.write_text("")
    else:
        bench.output.unlink()
    if how == "folder":
        (bench.output.parent / "upper.txt").symlink_to(bench.folder)
    assert not bench.upper().is_up_to_date()
    assert bench.run() == []
    assert bench.output.read_text() == "ABC!"


@pytest.mark.parametrize("lost", ["records", "objects", "object"])
def test_what_cannot_be_restored_is_built_again(bench: Bench, lost: str) -> None:
    bench.run()
    bench.output.unlink()
    for path in bench.records() if lost == "records" else list(bench.home.objects.rglob("*")):
        if path.is_file():
            path.chmod(0o644)
            if lost == "object":
                path.write_text("damaged")
            else:
                path.unlink()
    assert bench.run()[0] == "upper"
    assert bench.output.read_text() == "ABC!"


def test_a_lost_stat_cache_costs_no_work(bench: Bench) -> None:
    bench.run()
    for file in bench.home.root.glob("stat.sqlite*"):
        file.unlink()
    assert bench.run() == []


# -- what may happen meanwhile ---------------------------------------------------------------------------------


def test_an_input_that_changes_during_the_work_is_refused_and_nothing_recorded(bench: Bench) -> None:
    def work(place: Workplace) -> Mapping[str, Any]:
        (place.out / "upper.txt").write_text(bench.source.read_text().upper())
        bench.source.write_text("abd")
        return {}

    step = bench.upper(work)
    assert not step.is_up_to_date()
    assert "upper:doc is made from changed while it was being built" in message(step.run())
    assert bench.records() == [] and not bench.output.exists() and bench.leftovers() == []
    assert bench.run() == ["upper", "length"]
    assert bench.output.read_text() == "ABD!"


def test_settings_that_change_during_the_work_are_refused(bench: Bench) -> None:
    def work(place: Workplace) -> Mapping[str, Any]:
        (place.out / "upper.txt").write_text("")
        bench.settings = {"suffix": "?"}
        return {}

    assert "changed while it was being built" in message(bench.upper(work).run())
    assert bench.records() == []


def test_what_another_build_has_made_while_this_one_waited_is_taken(bench: Bench) -> None:
    late = bench.upper()
    assert not late.is_up_to_date()
    bench.run()
    bench.built.clear()
    assert late.run() is None
    assert bench.built == []


def test_what_is_made_belongs_to_the_inputs_at_the_start_of_the_work(bench: Bench) -> None:
    late = bench.upper()
    assert not late.is_up_to_date()
    bench.run()
    bench.source.write_text("changed while it waited")
    assert late.run() is None
    assert bench.output.read_text() == "CHANGED WHILE IT WAITED!"


def test_what_a_kill_left_is_swept(bench: Bench) -> None:
    litter = bench.home.root / "store" / ".12ab.staging"
    litter.mkdir(parents=True)
    (litter / "half.bin").write_bytes(b"x")
    bench.run()
    assert bench.leftovers() == []


def test_a_kill_after_the_record_is_a_restore(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Files, "publish", kill)
        with pytest.raises(KeyboardInterrupt):
            bench.upper().run()
    bench.built.clear()
    assert bench.run() == ["length"]
    assert bench.leftovers() == []


# -- failures --------------------------------------------------------------------------------------------------


def fails_with(error: BaseException) -> Callable[[Workplace], Mapping[str, Any]]:
    def work(place: Workplace) -> Mapping[str, Any]:
        (place.out / "half.bin").write_bytes(b"x")
        raise error

    return work


def test_a_persons_mistake_is_told_in_words(bench: Bench) -> None:
    error = DataError("the answer is too long", where=Where("a.dlm", 7, 1), why="it has 9 tokens", do="shorten it")
    assert message(bench.upper(fails_with(error)).run()) == (
        "a.dlm:7:1: the answer is too long: it has 9 tokens\n  → shorten it"
    )
    assert bench.leftovers() == [] and bench.records() == []
    assert not (bench.home.root / "crash.log").exists()


def test_a_full_disk(bench: Bench) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/somewhere/big.gguf")
    told = message(bench.upper(fails_with(error)).run())
    assert told.startswith("the disk is full: /somewhere/big.gguf could not be written; nothing that was finished")
    assert str(bench.home.root) in told and "DLM_HOME" in told
    assert bench.leftovers() == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_cannot_be_written(bench: Bench, number: int) -> None:
    place = f"{bench.home.root}/x"
    told = message(bench.upper(fails_with(OSError(number, os.strerror(number), place))).run())
    assert told.startswith(f"{place} cannot be written: {os.strerror(number)}\n  → make {bench.home.root} writable")


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("boom"), OSError(errno.EIO, "boom")])
def test_a_bug_writes_crash_log(bench: Bench, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLM_VERBOSE", raising=False)
    told = message(bench.upper(fails_with(error)).run())
    log = bench.home.root / "crash.log"
    assert "boom" in told.splitlines()[0] and "Traceback" not in told and str(log) in told
    assert "Traceback" in log.read_text() and "boom" in log.read_text()
    assert bench.leftovers() == [] and bench.records() == []
    monkeypatch.setenv("DLM_VERBOSE", "1")
    assert "Traceback" in message(bench.upper(fails_with(error)).run())


def test_an_interrupt_goes_through_and_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.upper(fails_with(KeyboardInterrupt())).run()
    assert bench.leftovers() == []
    assert bench.run() == ["upper", "length"]


def test_a_missing_input_is_named(bench: Bench) -> None:
    bench.source.unlink()
    step = bench.upper()
    assert step.ingredients() is None and not step.is_up_to_date()
    assert message(step.run()).startswith(f"{bench.source} is missing: upper:doc is made from it")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), DataError("no"), TypeError("x"), OSError()]
)
def test_asking_never_raises(bench: Bench, error: Exception) -> None:
    """doit turns whatever is raised by its question into a traceback; the answer "no" leads to `run` and its words."""

    def params() -> Mapping[str, Any]:
        raise error

    step = bench.upper(params=params)
    assert step.is_up_to_date() is False
    assert isinstance(step.run(), TaskFailed)


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", "null", '"text"', "\ud800"])
def test_damaged_json_in_the_store_is_not_up_to_date(bench: Bench, text: str) -> None:
    from dlmbuild.build.reading import read_json

    plan = bench.folder / "plan.json"
    plan.write_bytes(text.encode("utf-8", "surrogatepass"))
    step = bench.upper(params=lambda: {"seed": read_json(plan)["seed"]}, reads=(plan,))
    assert step.is_up_to_date() is False
    plan.write_text(json.dumps({"seed": 7}))
    found = step.ingredients()
    assert found is not None and found.params == {"seed": 7}


def test_staging_folder_is_gone_after_every_failure(bench: Bench) -> None:
    seen: list[Path] = []

    def work(place: Workplace) -> Mapping[str, Any]:
        seen.append(place.out)
        assert list(place.out.iterdir()) == []
        (place.out / "sub").mkdir()
        raise DataError("no")

    bench.upper(work).run()
    assert len(seen) == 1 and not seen[0].exists()


def test_notes_and_outputs_stand_in_the_record(bench: Bench) -> None:
    kept: list[Record] = []
    step = bench.upper(done=lambda record, built: kept.append(record))
    step.run()
    [path] = bench.records()
    data = json.loads(path.read_bytes())
    assert data["notes"] == {"made": True} and list(data["outputs"]) == ["upper.txt"]
    assert data["rule"] == "upper/1" and data["params"] == {"suffix": "!"}
    assert kept[0].ingredients.key == path.stem
    assert str(bench.folder) not in path.read_text()


def test_the_task_that_doit_gets(bench: Bench) -> None:
    task = bench.upper(reads=(bench.folder / "plan.json",)).task()
    assert task["file_dep"] == [str(bench.source), str(bench.folder / "plan.json")]
    assert task["targets"] == [str(bench.output)]
    assert task["clean"] == [] and bench.upper(clean=True).task()["clean"] is True
