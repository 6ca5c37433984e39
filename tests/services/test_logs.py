"""Lines of the log, whatever a client put into them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from maskfer.config import Settings
from services.scoring import logs

_ODD = "/x\u2028{}\x85\n12:00:00 ERROR forged\x1b[31m\ud800"


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, switches = logging.getLogger(), ("logThreads", "logProcesses", "logMultiprocessing")
    handlers, level = root.handlers[:], root.level
    for switch in switches:
        monkeypatch.setattr(logging, switch, getattr(logging, switch))
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


def _logged(capsys: pytest.CaptureFixture[str], form: Literal["json", "text"]) -> str:
    logs.configure(Settings(log_format=form))
    logging.getLogger("maskfer.scoring").error("answered %s", "\u2029", extra={"fields": {"path": _ODD}})
    return capsys.readouterr().err


def test_a_json_line_is_one_line_that_says_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    [line] = _logged(capsys, "json").splitlines()
    assert (json.loads(line)["message"], json.loads(line)["path"]) == ("answered \u2029", _ODD)


def test_a_text_line_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    [line] = _logged(capsys, "text").splitlines()
    assert line.isprintable()
    assert "answered ? path=/x?{}??12:00:00 ERROR forged?[31m?" in line
