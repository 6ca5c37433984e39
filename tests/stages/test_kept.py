"""What several processes make is made by one of them, under the key of all that could change it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from maskfer.errors import TrainingError
from maskfer.learning.training import machine
from maskfer.stages import kept


def test_a_folder_is_made_once_and_anew_under_another_key(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(out: Path) -> None:
        made.append(out)
        out.mkdir(exist_ok=True)

    first, other = (kept.keyed(tmp_path, "masks", key) for key in ("a" * 64, "b" * 64))
    fresh = [
        kept.once(first, "a" * 64, make),
        kept.once(first, "a" * 64, make),
        kept.once(other, "b" * 64, make),
    ]

    assert fresh == [True, False, True]
    assert made == [first, other]
    assert kept.is_made(first, "a" * 64)
    assert not kept.is_made(first, "b" * 64)
    assert kept.made_on(first) == machine()


def test_what_failed_is_not_taken_for_made(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        out.mkdir()
        raise TrainingError("the loss is nan")

    with pytest.raises(TrainingError):
        kept.once(tmp_path / "masks", "key", fail)

    assert not kept.is_made(tmp_path / "masks", "key")


def test_what_another_has_is_left_to_it_or_waited_for(tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with kept.taken(tmp_path / "seed-1" / "ran", patient=True) as mine:
            order.append("second" if mine else "nothing")

    thread = threading.Thread(target=wait)
    with kept.taken(tmp_path / "seed-1" / "ran", patient=True) as mine:
        assert mine
        with kept.taken(tmp_path / "seed-1" / "ran", patient=False) as other:
            assert not other
        thread.start()
        thread.join(timeout=0.5)
        order.append("first")
    thread.join(timeout=60)

    assert order == ["first", "second"]
