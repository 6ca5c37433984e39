"""The command line: `maskfer COMMAND`.

Every command imports its modules only when it runs, so that no image needs what it does not use.
"""

from __future__ import annotations

import sys

import typer

from maskfer.errors import MaskferError

app = typer.Typer(
    name="maskfer",
    help="Facial expression recognition on faces that wear masks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> None:
    """Run the command line; a `MaskferError` becomes one line on stderr and its exit code."""
    try:
        app()
    except MaskferError as error:
        print(f"maskfer: error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
