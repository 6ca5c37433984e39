"""Where the live application shows what it sees: a window, a terminal, or lines of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.scoring.application.view import View, describe
from services.scoring.protocol import LiveFace

_BAR: Final = 24
"""Length of a full bar, characters."""
_REDRAW_S: Final = 0.08


class Display(Protocol):
    """Shows moments until the user has enough."""

    @property
    def closed(self) -> bool:
        """Whether the user, or the reader of a pipe, has gone."""
        ...

    def show(self, view: View) -> None:
        """Show a moment; may leave it out where the last is still fresh."""
        ...

    def frame(self, fields: dict[str, Any]) -> None:
        """Take what became of one frame that was sent."""
        ...

    def say(self, message: str) -> None:
        """Tell the user something that is no reading."""
        ...

    def close(self) -> None:
        """Leave the screen as it was."""
        ...


def open_display(*, terminal: bool, title: str) -> Display:
    """Return lines of JSON where stdout is no terminal; else a window; without a screen the terminal."""
    if not sys.stdout.isatty():
        return JsonLines()
    if not terminal:
        from services.scoring.application.window import open_window

        window = open_window(title)
        if window is not None:
            return window
    return Terminal(title)


class JsonLines:
    """One JSON object a frame on stdout, for a pipe; messages on stderr."""

    def __init__(self) -> None:
        self.closed = False

    def show(self, view: View) -> None:
        """Nothing: a line says more."""

    def frame(self, fields: dict[str, Any]) -> None:
        """Print the line at once, so that the next program need not wait for more."""
        try:
            print(json.dumps(fields, separators=(",", ":")), flush=True)  # noqa: T201
        except BrokenPipeError:
            # The reader has enough. Python would complain when it flushes stdout at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.closed = True

    def say(self, message: str) -> None:
        """Print it on stderr."""
        print(f"live: {message}", file=sys.stderr, flush=True)  # noqa: T201

    def close(self) -> None:
        """Nothing to leave."""


class Terminal:
    """Bars in the terminal."""

    closed = False

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._live = Live(console=console or Console(), auto_refresh=False, transient=True)
        self._live.start()
        self._drawn_s = 0.0

    def show(self, view: View) -> None:
        """Draw it, at most twelve times a second."""
        now_s = time.monotonic()
        if now_s - self._drawn_s >= _REDRAW_S:
            self._drawn_s = now_s
            self._live.update(self._page(view), refresh=True)

    def frame(self, fields: dict[str, Any]) -> None:
        """Nothing: the bars show it."""

    def say(self, message: str) -> None:
        """Print it above the bars."""
        self._live.console.print(f"live: {message}", highlight=False, markup=False)

    def close(self) -> None:
        """Remove the bars."""
        self._live.stop()

    def _page(self, view: View) -> Group:
        header = Text.assemble((self._title, "bold"), "  ", (view.status, "dim"))
        if not view.faces:
            return Group(header, Text("no face", "dim"))
        return Group(header, *(_bars(face) for face in view.faces))


def _bars(face: LiveFace) -> Table:
    table = Table.grid(padding=(0, 1))
    table.title, table.title_justify = describe(face), "left"
    for name, share in face.probabilities.items():
        filled = round(_BAR * share)
        style = "bold green" if name == face.expression else ""
        bar = Text("█" * filled + "░" * (_BAR - filled), style or "dim")
        table.add_row(Text(name, style), bar, Text(f"{share:4.0%}", style))
    return table
