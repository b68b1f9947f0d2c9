"""How exact a training is here: the self-test's two runs agree, and with what is written down for such a machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.golden import golden
from tests.workshop import Workshop

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def adapters(home: Path) -> list[str]:
    return golden.selftest({**os.environ, "DLM_HOME": str(home)})


def test_the_selftest_trains_the_same_bytes_twice_and_as_written_down(adapters: list[str]) -> None:
    first, second = adapters
    assert first == second
    written = golden.known()
    if written is None:
        pytest.skip(f"nothing is written down for {golden.circumstances()}; `doit golden` on as many cores does")
    assert first == written["selftest"], "the same circumstances gave other bytes; `doit golden` shows old and new"


def test_the_doctor_says_what_was_measured(adapters: list[str], home: Path, tmp_path: Path) -> None:
    said = Workshop(tmp_path, home).dlm("doctor").out
    assert "strong" in said and "(measured)" in said
    assert "(not measured here; dlm doctor --selftest does)" in Workshop(tmp_path, tmp_path / "home").dlm("doctor").out


def test_nothing_in_the_environment_changes_the_bytes(adapters: list[str], tmp_path: Path) -> None:
    caps = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    launched = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "9"}
    environment = {**os.environ, **caps, **launched, "DLM_HOME": str(tmp_path)}
    assert golden.selftest(environment) == adapters


def test_a_machine_whose_runs_differ_is_advisory(tmp_path: Path) -> None:
    from dlmbuild.hardware.detect import this_machine
    from dlmbuild.hardware.doctor import determinism_here, note_selftest
    from dlmbuild.store.layout import Home

    home = Home(tmp_path)
    assert determinism_here(home, this_machine())["class"] == "strong"
    note_selftest(home, this_machine(), ["a", "b"])
    assert determinism_here(home, this_machine())["class"] == "advisory"
    assert "advisory" in Workshop(tmp_path, tmp_path).dlm("doctor").out
    (tmp_path / "selftest.json").write_text("[1]")
    assert determinism_here(home, this_machine())["class"] == "strong"


def test_the_doctor_without_the_training_packages_says_what_to_install(tmp_path: Path) -> None:
    from tests.golden.golden import SCRIPTS

    hidden = "import sys; sys.modules['torch'] = None; from dlmbuild.cli import main; raise SystemExit(main())"
    command = [str(SCRIPTS / "python"), "-c", hidden, "doctor", "--selftest"]
    ran = subprocess.run(command, env={**os.environ, "DLM_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "pip install 'dlmbuild[train]'" in ran.stderr
