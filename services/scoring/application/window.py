"""A window: Tk, which comes with Python, because OpenCV's headless build has none."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np

from services.scoring.application.view import View, draw


def open_window(title: str) -> Window | None:
    """Return a window; None where this Python has no Tk or there is no screen."""
    try:
        import tkinter
    except ImportError:
        return None
    try:
        return Window(tkinter.Tk(), title)
    except tkinter.TclError:
        return None


class Window:
    """The camera's picture with everything drawn on it; Escape, q or closing it ends the application."""

    def __init__(self, root: Any, title: str) -> None:
        import tkinter

        self.closed = False
        self._root = root
        self._photo = tkinter.PhotoImage(master=root)
        self._label = tkinter.Label(root, image=self._photo, borderwidth=0)
        self._label.pack()
        root.title(title)
        root.resizable(width=False, height=False)
        root.protocol("WM_DELETE_WINDOW", self._end)
        for key in ("<Escape>", "q"):
            root.bind(key, lambda _event: self._end())

    def show(self, view: View) -> None:
        """Draw it and let Tk handle what the user did."""
        self._photo.configure(data=portable_pixmap(draw(view)), format="ppm")
        self._root.update()

    def frame(self, fields: dict[str, Any]) -> None:
        """Nothing: the picture shows it."""

    def say(self, message: str) -> None:
        """Print it where the window was started; the window's status line has it too."""
        print(f"live: {message}", file=sys.stderr, flush=True)  # noqa: T201

    def close(self) -> None:
        """Close it."""
        self._root.destroy()

    def _end(self) -> None:
        self.closed = True


def portable_pixmap(image: Any) -> bytes:
    """Return a BGR picture as the one format that Tk reads without decoding."""
    height, width = image.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).tobytes()
