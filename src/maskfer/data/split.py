"""Who trains and who judges: splits by person, never by picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from maskfer.data.ingest import Record


def split_records(records: Sequence[Record], *, val: float, test: float, seed: int) -> list[Record]:
    """Give every record a split: `train`, `val` or `test`.

    A split that the raw data names is kept. Where it names no test, `test` of the people without a split
    become test, or of the training people where everybody has one; of the training people `val` become val.
    Where persons are unknown every picture counts as a person of its own. A person whom the raw data puts on
    both sides is moved to the test side as a whole: two pictures of one face are near-duplicates, and a
    verdict on people seen in training is worth nothing.
    """
    named = {record.split for record in records} - {None}
    if "test" in named:
        chosen = {_who(record) for record in records if record.split == "test"}
    else:
        free = {_who(record) for record in records if record.split is None}
        # Whoever names train and val alone has nobody to judge by; a model is trained on some less instead.
        free = free or {_who(record) for record in records if record.split == "train"}
        chosen = _choose(free, share=test, salt=f"{seed}/test")
    rest = {_who(record) for record in records} - chosen
    if "val" in named:
        validation = {_who(record) for record in records if record.split == "val"} - chosen
    else:
        validation = _choose(rest, share=val, salt=f"{seed}/val")
    return [replace(record, split=_side(_who(record), chosen, validation)) for record in records]


def _side(who: str, test: set[str], val: set[str]) -> str:
    if who in test:
        return "test"
    return "val" if who in val else "train"


def _who(record: Record) -> str:
    return f"person:{record.person}" if record.person is not None else f"image:{record.sha256}"


def _choose(people: Iterable[str], *, share: float, salt: str) -> set[str]:
    """A seeded share of the people, at least one where there are two; growing data moves nobody across."""
    draw = {who: _uniform(f"{salt}/{who}") for who in people}
    chosen = {who for who, number in draw.items() if number < share}
    if not chosen and share > 0 and len(draw) > 1:
        chosen = {min(draw, key=draw.__getitem__)}
    return chosen


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") / 2**64
