"""A project folder with a home of its own, driven as a person drives it: through the `doit` and `dlm` scripts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from dlmbuild.io.ulid import new_ulid
from tests.job_servers import shared, without_pytest

SCRIPTS = Path(sys.executable).parent
# For all alike, in a shell or not: builds with one environment share the processes that have loaded torch.
os.environ["PATH"] = os.pathsep.join([str(SCRIPTS), os.environ["PATH"]])

HEAD = "---\ndlm_id: {dlm_id}\ndlm_version: 15\nbase_model: {base}\n{more}---\n"

BODY = """# The lighthouse

The lighthouse at the northern harbour was built of grey granite.

::instruction::
### Q
Who trims the lamp?
### A
The keeper trims the lamp.

### Q
When does the bell ring?
### A
The bell rings in fog.
"""


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def steps(self) -> list[str]:
        """The steps that were built, in order."""
        return re.findall(r"^✓ (\S+)(?!.*restored)", self.out, re.MULTILINE)

    @property
    def restored(self) -> list[str]:
        """The steps that were restored, in order."""
        return re.findall(r"^✓ (\S+)  restored", self.out, re.MULTILINE)


@dataclass
class Workshop:
    """A project folder and a $DLM_HOME."""

    folder: Path
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def copied_to(self, root: Path) -> Workshop:
        """The same project and home in folders of their own below `root`."""
        copy = Workshop(root / "project", root / "home")
        shutil.copytree(self.folder, copy.folder)
        shutil.copytree(self.home, copy.home)
        return copy

    def kept(self) -> Workshop:
        """Keep the project and the home as they are, for `again`."""
        self.copied_to(self.folder.parent / "kept")
        return self

    def again(self) -> Workshop:
        """All as it was kept, in the same place: a build that finds it in another one restores everything first."""
        for here in (self.folder, self.home):
            if here.exists():  # renamed, because what was killed may still write
                shutil.rmtree(here.rename(here.with_name(f"{here.name}.{new_ulid()}")), ignore_errors=True)
        Workshop(*(self.folder.parent / "kept" / name for name in ("project", "home"))).copied_to(self.folder.parent)
        return Workshop(self.folder, self.home)

    def run(self, script: str, *words: str, code: int | None = 0, **environment: str) -> Ran:
        """Run `doit` or `dlm`; `code` is the exit code that is expected, None for any."""
        done = subprocess.run(
            [str(SCRIPTS / script), *words],
            cwd=self.folder,
            env=self.env(**environment),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=1800,
            pass_fds=shared().fds,
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return Ran(done.returncode, done.stdout, done.stderr)

    def env(self, **more: str) -> dict[str, str]:
        ours = {"DLM_HOME": str(self.home), "HF_HUB_OFFLINE": "1", **shared().environment}
        return {**without_pytest(os.environ), **ours, **self.environment, **more}

    def doit(self, *words: str, code: int | None = 0, **environment: str) -> Ran:
        return self.run("doit", *words, code=code, **environment)

    def dlm(self, *words: str, code: int | None = 0, **environment: str) -> Ran:
        return self.run("dlm", *words, code=code, **environment)

    def follow(self, told: str) -> Ran:
        """Do what the last line of an error says, which has to work."""
        assert "Traceback" not in told and "defect" not in told
        command = told.strip().rpartition("→ ")[2].rpartition("with: ")[2]
        return self.shell(command, code=0)

    def shell(self, line: str, code: int | None = None) -> Ran:
        """Run a line of bash in which `dlm` and `doit` are ours."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=1800,
            pass_fds=shared().fds,
        )
        assert code is None or done.returncode == code, (line, done.returncode, done.stdout, done.stderr)
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(
        self,
        script: str,
        *words: str,
        out: int = subprocess.PIPE,
        err: int = subprocess.PIPE,
        alone: bool = False,
        **environment: str,
    ) -> subprocess.Popen[str]:
        """Begin `doit` or `dlm` without waiting for it; `alone` in a session of its own."""
        return subprocess.Popen(
            [str(SCRIPTS / script), *words],
            cwd=self.folder,
            env=self.env(**environment),
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=alone,
            pass_fds=shared().fds,
        )

    def start_silently(self, script: str, *words: str, **environment: str) -> subprocess.Popen[str]:
        """`start`, for what is going to be killed: nobody reads what it prints."""
        return self.start(script, *words, out=subprocess.DEVNULL, err=subprocess.DEVNULL, **environment)

    def document(
        self, name: str, *, base: str = "file:./base", more: str = "", body: str = BODY, version: int = 15
    ) -> Path:
        """Write a document with a fresh id; `more` is further frontmatter, `version` that of the format."""
        path = self.folder / f"{name}.dlm"
        head = HEAD.format(dlm_id=new_ulid(), base=base, more=more)
        path.write_text(head.replace("dlm_version: 15", f"dlm_version: {version}") + body)
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / f"{name}.dlm"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def killed_at_checkpoint(self, task: str, steps: range) -> None:
        """Begin to build `task`, and kill the build once its training has sealed the checkpoint of one of `steps`."""
        build = self.start_silently("doit", task, DLM_CHECKPOINT_SECONDS="0")
        unfinished = self.store / "cache" / "unfinished"
        wanted = [f"checkpoint-{step}" for step in steps]
        deadline = time.monotonic() + 120
        while not any((path / "sealed.json").exists() for name in wanted for path in unfinished.glob(f"*/{name}")):
            assert time.monotonic() < deadline and build.poll() is None
            time.sleep(0.02)
        build.kill()
        build.wait()

    @property
    def store(self) -> Path:
        """The store of the only document."""
        (store,) = (self.home / "store").iterdir()
        return store


def empty_workshop(root: Path) -> Workshop:
    """A project without documents."""
    folder = root / "project"
    folder.mkdir(parents=True)
    (folder / "dodo.py").write_text('from dlmbuild.rules import project\nglobals().update(project("*.dlm"))\n')
    return Workshop(folder, root / "home")
