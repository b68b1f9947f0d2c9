from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

from dlmbuild.lock.capture import EXPORT_PINS, TRAINING_PINS, determinism, pin, pins


def test_installed_and_not() -> None:
    assert pin("doit") == version("doit")
    assert pin("no-such-package") == ""
    assert pins(("no-such-package", "doit")) == {"doit": version("doit")}


def test_nothing_is_imported_for_it() -> None:
    names = (*TRAINING_PINS, *EXPORT_PINS)
    script = f"import sys; from dlmbuild.lock.capture import pins; pins({names}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "gguf", "numpy", "xllamacpp"} & set(modules)


def test_how_far_two_trainings_agree() -> None:
    assert [determinism(device)["class"] for device in ("cuda", "cpu", "mps")] == ["strong", "strong", "best-effort"]
