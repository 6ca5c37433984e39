"""The command line as a user meets it: help, version and errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Maskfer

MASKFER = str(Path(sys.executable).with_name("maskfer"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MASKFER, *arguments], capture_output=True, text=True, check=False)


def test_help_lists_the_commands_of_the_whole_line() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for command in ("data", "mask", "retrain", "evaluate", "models", "serve", "score", "bench", "demo"):
        assert f" {command} " in shown.stdout


def test_version_is_one_line() -> None:
    assert run("--version").stdout.startswith("maskfer 0.")


def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    failed = run("data", "build", str(tmp_path / "absent"), "--out", str(tmp_path / "out"))
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("maskfer: error: ")
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_one_line_that_names_it(maskfer: Maskfer, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder.mp4"
    file.touch()
    folder.mkdir()
    clip = ("data", "clip", "--frames", "1", "--out")
    assert maskfer(*clip, file / "clip.mp4", code=2) == f"maskfer: error: {file}: File exists"
    assert maskfer(*clip, folder, code=2) == f"maskfer: error: {folder}: Is a directory"
    assert sorted(tmp_path.rglob("*")) == [file, folder]


def test_a_full_disk_is_one_line_and_exit_code_2() -> None:
    with Path("/dev/full").open("w") as full:
        failed = subprocess.run(
            [MASKFER, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert failed.stderr == "maskfer: error: No space left on device\n"
    assert failed.returncode == 2


def test_output_that_nobody_reads_on_ends_the_command_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([MASKFER, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ended.stderr, ended.returncode) == ("", 1)


def test_showing_help_loads_none_of_the_heavy_parts() -> None:
    probe = (
        "import sys; from maskfer.cli import load_commands; load_commands();"
        "print(sorted({'torch', 'mlflow', 'kfp', 'bentoml', 'celery', 'dlib', 'cv2'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
