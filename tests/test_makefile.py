"""The one-word commands that delete something."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


def test_clean_leaves_what_no_command_can_make_again_as_it_was(tmp_path: Path) -> None:
    shutil.copy(_MAKEFILE, tmp_path)
    kept = {"mlflow.db", "artifacts/1", "statistics.db", "shadow.db", "accuracy/table.md", "runs/1/log"}
    for name in (*kept, "cache/pipeline/1", "demo/home/mlflow.db"):
        (tmp_path / ".maskfer" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".maskfer" / name).touch()
    for name in ("build", ".ruff_cache"):
        (tmp_path / name).mkdir()
    subprocess.run(["make", "--silent", "clean"], cwd=tmp_path, check=True)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"Makefile", *(f".maskfer/{name}" for name in kept)}
    assert {path.name for path in tmp_path.iterdir()} == {"Makefile", ".maskfer"}
