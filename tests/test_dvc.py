"""What `dvc.yaml` promises: a stage runs again when code that can change its result has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

_ROOT = Path(__file__).resolve().parents[1]
_HASH_WITHOUT = """
import json, sys
from pathlib import Path
from maskfer.provenance import code_sha256

for stage, names in json.loads(sys.argv[1]).items():
    texts = {Path(name): Path(name).read_text() for name in names}
    for file in texts:
        file.write_text(f"{file} is part of {stage} and not among its deps")  # which no parser takes
    code_sha256(f"maskfer.stages.{stage}")
    for file, text in texts.items():
        file.write_text(text)
"""


def test_the_deps_of_the_datasets_stages_hold_all_code_that_their_hash_is_made_of(tmp_path: Path) -> None:
    stages = yaml.safe_load((_ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    deps = {name: stages[name]["deps"] for name in ("ingest", "align", "wear_masks")}
    shutil.copytree(
        _ROOT / "src" / "maskfer", tmp_path / "src" / "maskfer", ignore=shutil.ignore_patterns("__pycache__")
    )
    code = [path.relative_to(tmp_path) for path in (tmp_path / "src").rglob("*.py")]
    others = {
        stage: [str(path) for path in code if not any(path.is_relative_to(dep) for dep in of_stage)]
        for stage, of_stage in deps.items()
    }
    hashed = subprocess.run(
        [sys.executable, "-c", _HASH_WITHOUT, json.dumps(others)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert hashed.returncode == 0, hashed.stderr
