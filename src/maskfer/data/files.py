"""Which files lie in a raw folder: one answer for who reads them and for who asks whether they changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from maskfer.errors import DatasetError


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, in order: links are followed, hidden files and folders are left out.

    What is neither a file nor a folder, such as a link to nothing, counts as a file. Raises `DatasetError`
    where a folder cannot be looked into.
    """
    return _below(folder, above=frozenset())


def _below(folder: Path, *, above: frozenset[Path]) -> Iterator[Path]:
    try:
        real = folder.resolve()
        visible = [child for child in folder.iterdir() if not child.name.startswith(".")]
        children = [(child, child.is_dir()) for child in sorted(visible)]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be looked into: {error.strerror}") from error
    if real in above:
        return  # a link to a folder around it: everything in there has its name already
    for child, is_folder in children:
        if is_folder:
            yield from _below(child, above=above | {real})
        else:
            yield child
