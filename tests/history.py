"""Random histories of a project, and what every build of it must come to.

The graph, its records and doit are the real ones. The heavy jobs are replaced, in the project's dodo.py, by ones that
write digests of what they were given: a wrong input, a stale output or a mixed-up record shows in all that follows.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tests.tiny import make_tiny_base
from tests.workshop import BODY, HEAD, Workshop

FAKE_JOBS = """
import hashlib, json, os, struct, time
from pathlib import Path
from dlmbuild.io.gguf_file import entry
import dlmbuild.jobs.local as local
from dlmbuild.base_models.resolve import fetch_base
from dlmbuild.io.progress import silent

SAME = {"agreement": 1.0, "agreeing": 1, "positions": 1, "kl": {"mean": 0.0}}
VERSION = ("adapter_config.json", "adapter_model.safetensors", "training_state.pt", "training_state.pt.sha256",
           "training_run.json", "pinned_versions.json", "adapter.json")

def run_job(name, *, inputs, params, out, log, file="", progress=silent, threads=1, processes=1, network=False):
    if name == "base":
        return fetch_base(**params, out=out, progress=silent)
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    seen = hashlib.sha256(json.dumps([name, params.get("plan"), params.get("quant")], sort_keys=True).encode())
    for role, path in sorted(inputs.items()):
        if role in ("log", "checkpoints", "states"):
            continue
        for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
            seen.update(part.name.encode() + part.read_bytes())
    if name == "train":
        shards = sorted((inputs["dataset"].parent / "dataset").iterdir())
        seen.update(b"".join(path.read_bytes() for path in shards))
    made = name + " " + seen.hexdigest() + "\\n"
    if name in ("train", "prefer"):
        for part in VERSION:
            (out / part).write_text(json.dumps({"files": {}, part: made}))
        warm = params.get("warm")
        told = {"changed_rows": len(warm["changed"]), "chain": warm["chain"]} if warm else {}
        return {"steps": 1, **({"warm": told} if warm else {})}
    if name == "reference":
        (out / "reference.json").write_text(made)
    elif name == "compare":
        (out / params["report"]).write_text(json.dumps({**SAME, "made": made}))
    elif file.endswith(".gguf"):
        named = entry("general.name", made)
        (out / file).write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + named)
    else:
        (out / file).write_text(made)
    return {"fallbacks": {}, "without": [], "experts": 0, "unseen": 0}

kill_at = int(os.environ.get("KILL_AT", "0"))
calls = 0

def counted(real):
    def call(*words, **named):
        global calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), 9)
        return real(*words, **named)
    return call

if kill_at:
    for name in ("fsync", "replace", "rename", "link", "unlink"):
        setattr(os, name, counted(getattr(os, name)))

local.run_job = run_job
local.require_extra = lambda *modules, extra="": None
"""

# A plain dodo file, of which a build that had nothing to do leaves a note (build/uptodate.py).
DODO = """
import fake_jobs
from dlmbuild.rules import project
globals().update(project("*.dlm"))
"""

ID = "01HZX3Q5J8K9M2N4P6R8T0V2W4"
QUANT = "Q4_K_M"


def write_dodo(folder: Path) -> None:
    """Lay down a plain dodo file whose heavy jobs are replaced."""
    (folder / "fake_jobs.py").write_text(FAKE_JOBS)
    (folder / "dodo.py").write_text(DODO)


@dataclass
class Inputs:
    """Everything that decides what is built."""

    answer: str = "in fog"
    comment: str = ""
    seed: int = 1
    temperature: float = 0.0
    base: int = 0
    name: str = "tower"

    @property
    def meaning(self) -> tuple[object, ...]:
        """Inputs with the same meaning build the same bytes."""
        return (self.answer, self.seed, self.temperature, self.base)


@dataclass
class History:
    """One project that things happen to."""

    root: Path
    seed: int
    inputs: Inputs = field(default_factory=Inputs)
    expected: dict[tuple[object, ...], dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.shop = Workshop(self.root / "project", self.root / "home")
        self.shop.folder.mkdir(parents=True)
        write_dodo(self.shop.folder)
        self.bases = [self.root / "base0", self.root / "base1"]
        make_tiny_base(self.bases[0])
        shutil.copytree(self.bases[0], self.bases[1])
        weights = self.bases[1] / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
        self.write(self.shop.folder, self.inputs)

    # -- inputs ------------------------------------------------------------------------------------------------

    def write(self, folder: Path, inputs: Inputs) -> None:
        """Lay the inputs down in a project folder."""
        for document in folder.glob("*.dlm"):
            document.unlink()
        more = f"{inputs.comment}training: {{seed: {inputs.seed}}}\n"
        more += f"export: {{default_temperature: {inputs.temperature}}}\n"
        text = HEAD.format(dlm_id=ID, base="file:./base", more=more) + BODY.replace("in fog", inputs.answer)
        (folder / f"{inputs.name}.dlm").write_text(text)
        (folder / "base").mkdir(exist_ok=True)
        for path in self.bases[inputs.base].iterdir():
            if not (folder / "base" / path.name).exists() or path.name == "model.safetensors":
                shutil.copyfile(path, folder / "base" / path.name)

    def edit(self) -> str:
        """Change an input, or set it to what it is."""
        name = self.random.choice(["answer", "comment", "seed", "temperature", "base", "name"])
        values = {
            "answer": ["in fog", "at noon", "never"],
            "comment": ["", "# a comment\n", "# another\n"],
            "seed": [1, 2],
            "temperature": [0.0, 0.5],
            "base": [0, 1],
            "name": ["tower", "lighthouse"],
        }
        setattr(self.inputs, name, self.random.choice(values[name]))
        self.write(self.shop.folder, self.inputs)
        return f"edit {name}"

    # -- accidents ---------------------------------------------------------------------------------------------

    def _victims(self) -> list[Path]:
        kinds = ("store", "bases", "objects", "records")
        return [
            p for kind in kinds for p in sorted((self.shop.home / kind).rglob("*")) if p.is_file() and p.stat().st_size
        ]

    def accident(self) -> str:
        """Damage something that was built, or what is remembered of it."""
        kind = self.random.choice(
            ["corrupt", "corrupt quietly", "delete", "touch", "database", "stat cache", "records"]
        )
        if kind == "database":
            (self.shop.folder / ".doit.db").write_bytes(b"garbage")
        elif kind == "stat cache":
            for path in self.shop.home.glob("stat.sqlite*"):
                path.write_bytes(b"garbage")
        elif kind == "records":
            shutil.rmtree(self.shop.home / "records", ignore_errors=True)
        elif victims := self._victims():
            path = self.random.choice(victims)
            if kind == "touch":
                os.utime(path)
            elif kind == "delete":
                path.unlink()
            else:
                times = path.stat()
                path.chmod(0o644)
                data = bytearray(path.read_bytes())
                data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
                path.write_bytes(data)
                if kind == "corrupt quietly":  # as `cp -p` and broken disks do it
                    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            return f"{kind} {path.relative_to(self.shop.home)}"
        return kind

    # -- builds ------------------------------------------------------------------------------------------------

    def start_build(self, seconds: float = 0.05) -> subprocess.Popen[str]:
        """A build on its way, in which every heavy job takes so long."""
        return self.shop.start("doit", f"export:{QUANT}", err=subprocess.STDOUT, FAKE_SECONDS=str(seconds))

    def killed_build(self, how: signal.Signals) -> str:
        """A build that is ended from outside at some instant."""
        process = self.start_build()
        time.sleep(self.random.uniform(0.15, 1.3))
        process.send_signal(how)
        process.communicate()
        return how.name

    def build_edited_meanwhile(self) -> str:
        """A build during which an input changes; what it comes to is only told by the next one."""
        process = self.start_build()
        time.sleep(self.random.uniform(0.1, 0.8))
        what = self.edit()
        process.communicate()
        return f"{what} during a build"

    def step(self) -> str:
        """One thing that happens."""
        happening = self.random.choices(
            [self.edit, self.accident, self.build_edited_meanwhile, lambda: self.killed_build(signal.SIGKILL),
             lambda: self.killed_build(signal.SIGTERM)],
            weights=[8, 8, 1, 2, 1],
        )[0]  # fmt: skip
        return happening()

    def state(self, shop: Workshop) -> dict[str, str]:
        """Digest of every file that a person uses."""
        store = shop.home / "store" / ID
        current = store / "adapter" / (store / "adapter" / "current.txt").read_text().strip()
        files = [*(store / "exports" / QUANT).iterdir(), *current.iterdir(), store / "adapter" / "adapter.json"]
        return {f"{path.parent.name[:1]}/{path.name}": sha256(path.read_bytes()).hexdigest() for path in files}

    def from_scratch(self) -> dict[str, str]:
        """What the present inputs come to in an empty home."""
        if self.inputs.meaning not in self.expected:
            scratch = Workshop(self.root / "scratch" / "project", self.root / "scratch" / "home")
            scratch.folder.mkdir(parents=True)
            write_dodo(scratch.folder)
            self.write(scratch.folder, self.inputs)
            scratch.doit(f"export:{QUANT}")
            self.expected[self.inputs.meaning] = self.state(scratch)
            shutil.rmtree(self.root / "scratch")
        return self.expected[self.inputs.meaning]

    def build(self) -> str:
        """A build that is left alone; returns what is wrong with what it comes to, in words."""
        ran = self.shop.doit(f"export:{QUANT}", code=None)
        if ran.code:
            return f"it failed: {ran.out}{ran.err}"
        state, expected = self.state(self.shop), self.from_scratch()
        wrong = sorted(name for name in state.keys() | expected.keys() if state.get(name) != expected.get(name))
        if wrong:
            return f"{wrong} differ from a build from scratch"
        return ""
