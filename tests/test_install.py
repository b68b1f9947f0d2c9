"""The light installation: checking works without PyTorch, and building says what to install."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workshop import BODY, HEAD

REPOSITORY = Path(__file__).parent.parent

pytestmark = pytest.mark.real


def test_the_base_distribution_checks_and_says_what_building_needs(tmp_path: Path) -> None:
    sources = tmp_path / "sources"  # pip builds in the source folder: not in ours
    left_out = shutil.ignore_patterns(".git", "*.egg-info", ".*_cache", "__pycache__", "venv", ".venv")
    shutil.copytree(REPOSITORY, sources, ignore=left_out)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    scripts = tmp_path / "venv" / "bin"
    subprocess.run([scripts / "pip", "install", "--quiet", str(sources)], check=True)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{scripts}:/usr/bin:/bin", "DLM_HOME": str(tmp_path / "home")}
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)

    project = tmp_path
    assert run("dlm", "init", "book").returncode == 0
    project = tmp_path / "book"
    checked = run("dlm", "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert run("python", "-c", "import torch").returncode == 1
    (project / "other.dlm").write_text(
        HEAD.format(dlm_id="01HZX3Q5J8K9M2N4P6R8T0V2W4", base="smollm2-135m", more="training: {num_epoch: 3}\n") + BODY
    )
    wrong = run("dlm", "check", "other.dlm")
    assert wrong.returncode == 1
    assert 'other.dlm:5:12: unknown key "num_epoch" in training' in wrong.stderr
    (project / "other.dlm").unlink()
    build = run("dlm", "run", "export:Q4_K_M")
    assert build.returncode == 1
    assert "pip install 'dlmbuild[train]'" in build.stderr
    assert "Traceback" not in build.stderr
