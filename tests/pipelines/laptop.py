"""A copy of the checkout with synthetic photographs in it: what a user who cloned the project has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[2]
_BIN = Path(sys.executable).parent
PARAMS = """\
seed: 7
classes: [positive, neutral, negative]
data: {val_fraction: 0.3}
masking: {}
mask_classifier: {epochs: 1, batch_size: 16, width: 8}
heatmap: {epochs: 1, batch_size: 16, patch: 24, stride: 24}
inpainting: {}
landmarks: {epochs: 1, batch_size: 16, width: 8}
expression: {epochs: 1, batch_size: 16, width: 8}
evaluation: {bootstrap_samples: 100}
"""


@dataclass(frozen=True)
class Laptop:
    """A checkout of its own under git and DVC, with a home of its own."""

    root: Path

    @classmethod
    def set_up(cls, root: Path) -> Laptop:
        """Copy the sources, draw photographs into `data/raw`, and commit what a user would have committed."""
        listed = subprocess.run(
            ["git", "-C", str(_CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (_CHECKOUT / name).is_file() and not name.startswith("tests/"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(_CHECKOUT / name, root / name)
        laptop = cls(root)
        (root / "params.yaml").write_text(PARAMS, encoding="utf-8")
        identity = ("-c", "user.name=Someone", "-c", "user.email=someone@example.com")
        laptop.run("git", "init", "--quiet")
        laptop.run("git", "add", "--all")
        laptop.run("git", *identity, "commit", "--quiet", "--message", "checkout")
        laptop.maskfer("data", "synth", "--out", "data/raw", "--people", "6", "--per-person", "5")
        return laptop

    @property
    def commit(self) -> str:
        """The revision that is checked out."""
        return self.run("git", "rev-parse", "HEAD").strip()

    def maskfer(self, *arguments: str) -> str:
        """Run `maskfer` to a good end and return what it printed."""
        return self.run("maskfer", *arguments)

    def run(self, *command: str) -> str:
        """Run a command to a good end and return its standard output."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the copied sources, whatever comes of it."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MASKFER_")}
        environment |= {
            "PATH": f"{_BIN}:{os.environ['PATH']}",
            "PYTHONPATH": f"{self.root / 'src'}:{self.root}",
            "MASKFER_HOME": str(self.home),
            "TMPDIR": str(self.scratch),
        }
        self.scratch.mkdir(exist_ok=True)
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )

    @property
    def home(self) -> Path:
        """MASKFER_HOME of every command."""
        return self.root / ".maskfer"

    @property
    def scratch(self) -> Path:
        """TMPDIR of every command."""
        return self.root.parent / "scratch"

    def left_behind(self) -> list[Path]:
        """Folders that commands made under TMPDIR and did not remove."""
        return [path for path in self.scratch.iterdir() if path.is_dir()]

    def read_json(self, name: str) -> Any:
        """Return a JSON file's content."""
        return json.loads((self.root / name).read_text(encoding="utf-8"))
