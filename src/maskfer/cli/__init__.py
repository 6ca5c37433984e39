"""The command line: `maskfer COMMAND`.

Every module of this package adds its commands to `app`; a command imports what it needs only when it runs,
so that no image needs what it does not use.
"""

from __future__ import annotations

import errno
import os
import pkgutil
import sys
from importlib import import_module
from typing import Annotated

import typer

from maskfer.errors import MaskferError

app = typer.Typer(
    name="maskfer",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from maskfer import __version__

        typer.echo(f"maskfer {__version__}")
        raise typer.Exit


@app.callback()
def _maskfer(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Facial expression recognition on faces that wear masks."""


def load_commands() -> typer.Typer:
    """Import every module of this package, so that its commands are on `app`."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return app


def main() -> None:
    """Run the command line; a `MaskferError` becomes one line on stderr and its exit code.

    So do a file or folder that cannot be read or written, and a full disk. Whoever closes the pipe that the
    output goes to wants no more of it: exit code 1 without a word.
    """
    try:
        load_commands()()
    except MaskferError as error:
        print(f"maskfer: error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Of a file that could not be moved to its place, the place.
        path = error.filename2 or error.filename
        where = "" if path is None else f"{path}: "
        print(f"maskfer: error: {where}{os.strerror(error.errno or 0)}", file=sys.stderr)  # noqa: T201
        sys.exit(MaskferError.exit_code)
