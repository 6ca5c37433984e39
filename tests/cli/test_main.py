"""The command line as a user meets it: help, version and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MASKFER = str(Path(sys.executable).with_name("maskfer"))


def maskfer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MASKFER, *arguments], capture_output=True, text=True, check=False)


def test_help_lists_the_commands_of_the_whole_line() -> None:
    shown = maskfer("--help")
    assert shown.returncode == 0
    for command in ("data", "mask", "retrain", "evaluate", "models", "serve", "score", "bench", "demo"):
        assert f" {command} " in shown.stdout


def test_version_is_one_line() -> None:
    assert maskfer("--version").stdout.startswith("maskfer 0.")


def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    failed = maskfer("data", "build", str(tmp_path / "absent"), "--out", str(tmp_path / "out"))
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("maskfer: error: ")
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "out").exists()


def test_showing_help_loads_none_of_the_heavy_parts() -> None:
    probe = (
        "import sys; from maskfer.cli import load_commands; load_commands();"
        "print(sorted({'torch', 'mlflow', 'kfp', 'bentoml', 'celery', 'dlib', 'cv2'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
