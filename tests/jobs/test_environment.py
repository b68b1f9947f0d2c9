from __future__ import annotations

import pytest

from dlmbuild.jobs.environment import job_environment


def test_what_a_result_depends_on_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "something else")
    found = job_environment(threads=3, network=False)
    assert found["PYTHONHASHSEED"] == "0"
    assert found["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert found["HF_HUB_OFFLINE"] == found["TRANSFORMERS_OFFLINE"] == found["HF_DATASETS_OFFLINE"] == "1"
    assert {found[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"3"}


def test_a_job_with_the_network_keeps_what_the_person_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = job_environment(threads=1, network=True)
    assert found["HF_HUB_OFFLINE"] == "1" and "TRANSFORMERS_OFFLINE" not in found


def test_the_rest_of_the_environment_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("GIT_DIR", "/somewhere/.git")  # as in a hook
    found = job_environment(threads=1, network=False)
    assert found["HF_TOKEN"] == "secret"
    assert "GIT_DIR" not in found
