"""The image files name things that exist; building them needs a container engine and is not done here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_FILES = ("services/scoring/Dockerfile", "services/labeling/Dockerfile", "components/Dockerfile")


@pytest.mark.parametrize("name", _FILES)
def test_an_image_copies_only_what_is_there_and_what_its_build_may_see(name: str) -> None:
    text = (_ROOT / name).read_text(encoding="utf-8")
    allowed = (_ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (_ROOT / source).exists(), source
            assert f"!{source}" in allowed


@pytest.mark.parametrize("name", _FILES)
def test_an_image_installs_pinned_extras_that_exist_and_does_not_run_as_root(name: str) -> None:
    text = (_ROOT / name).read_text(encoding="utf-8")
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r'pip install --constraint constraints.txt "\.\[(.+)\]"', text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert re.search(r"^USER [1-9]\d+:", text, flags=re.MULTILINE)
    assert not re.search(r"^FROM \S+(:latest|[^:\s]+)( |$)(?<!:\d)", text.replace("python:3", "python3"))


def test_what_serves_is_installed_without_torch() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in _FILES[:2]:
        (extras,) = re.findall(r'"\.\[(.+)\]"', (_ROOT / name).read_text(encoding="utf-8"))
        wanted = [one for extra in extras.split(",") for one in project["optional-dependencies"][extra]]
        assert not any(one.startswith(("torch", "kfp", "dlib")) for one in wanted)
