"""What the tests of the command line share."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from maskfer.cli import main

Maskfer = Callable[..., str]


@pytest.fixture
def maskfer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Maskfer:
    """Runs the command line and returns what it printed; failing, its one line."""

    def run(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["maskfer", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert (ended.value.code or 0) == code, shown.err
        if code == 0:
            return shown.out
        (line,) = shown.err.splitlines()
        assert line.startswith("maskfer: error: ")
        return line

    return run
