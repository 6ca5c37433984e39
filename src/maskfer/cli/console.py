"""Where commands print what holds names of folders and words of people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain(*, soft_wrap: bool = True) -> Console:
    """Return a console on stdout for which nothing is markup or an emoji's name: a reason may hold brackets.

    With `soft_wrap` the terminal breaks long lines, so that a path can be copied.
    """
    from rich.console import Console

    return Console(highlight=False, soft_wrap=soft_wrap, markup=False, emoji=False)
