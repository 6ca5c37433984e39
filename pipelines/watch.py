"""Follows the SDK's local runner through what it prints: which step runs, what it says, how it ended.

The runner reports nothing else: its exception names the failed step but holds neither its last lines nor
its seconds. The phrases are those of the kfp version that constraints.txt pins; the tests run it.
"""

import io
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, TextIO

_COLOUR: Final = re.compile(r"\x1b\[\d+m")
_STARTED: Final = re.compile(r"Executing task '([\w-]+)'")
_ENDED: Final = re.compile(r"Task '([\w-]+)' finished with status (SUCCESS|FAILURE)")
_CACHED: Final = re.compile(r"Task ([\w-]+) cache hit")
_OWN: Final = "[KFP Executor "
_TRACEBACK: Final = "Traceback (most recent call last)"
_CHAINED: Final = ("The above exception was", "During handling of the above exception")
_INDENT: Final = "    "
_TAIL_LINES: Final = 12


@dataclass(frozen=True)
class Step:
    """One finished step; `seconds` is None where its result came from the cache."""

    name: str
    seconds: float | None
    succeeded: bool = True


class StepWatch(io.TextIOBase):
    """A text stream: everything goes to `log`, the steps' own lines also to `terminal`."""

    def __init__(self, *, log: TextIO, terminal: TextIO) -> None:
        self.steps: list[Step] = []
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        """Last lines of the step that ran last, without a traceback's."""
        self.traceback: list[str] = []
        """The traceback it ended with, if it did; it goes to the log and not to the terminal."""
        self._log = log
        self._terminal = terminal
        self._rest = ""
        self._running: tuple[str, float] | None = None
        self._speaking = False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Take text as it comes; whole lines are looked at as they end."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            plain = _COLOUR.sub("", line)
            self._log.write(plain + "\n")
            self._look(plain)
        if lines:
            self._log.flush()
        return len(text)

    def _look(self, line: str) -> None:
        if started := _STARTED.search(line):
            self._running = (_name(started[1]), time.monotonic())
            self._speaking = False
            self.tail.clear()
            self.traceback = []
        elif ended := _ENDED.search(line):
            self._end(_name(ended[1]), succeeded=ended[2] == "SUCCESS")
        elif cached := _CACHED.search(line):
            self.steps.append(Step(_name(cached[1]), None))
            self._say(f"{self.steps[-1].name}: cached")
        elif self._running is not None:
            self._listen(line, step=self._running[0])

    def _listen(self, line: str, *, step: str) -> None:
        said = line.removeprefix(_INDENT)
        if line == f"{_INDENT}}}" and not self._speaking:
            # Here the runner's dump of the step's arguments ends and the step itself begins.
            self._speaking = True
            self._say(f"{step}: running")
        elif self._speaking and said.strip() and not said.startswith(_OWN):
            if said.startswith(_TRACEBACK):
                self.traceback = [said]
            elif said.startswith(_CHAINED):
                self.traceback.append(said)
            elif self.traceback and (
                said.startswith(" ") or self.traceback[-1].startswith((" ", _TRACEBACK))
            ):
                # Frames are indented; the line after the last frame names the error and ends it.
                self.traceback.append(said)
            else:
                self.tail.append(said)
                self._say(f"  {said}")

    def _end(self, name: str, *, succeeded: bool) -> None:
        if self._running is None or name == "importer":
            self._running = None
            return
        seconds = time.monotonic() - self._running[1]
        self._running = None
        self.steps.append(Step(name, seconds, succeeded))
        self._say(f"{name}: {'done' if succeeded else 'failed'} after {seconds:.1f} s")

    def _say(self, line: str) -> None:
        self._terminal.write(line + "\n")
        self._terminal.flush()


def _name(task: str) -> str:
    return task.replace("-", "_")
