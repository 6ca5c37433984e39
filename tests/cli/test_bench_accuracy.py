"""`maskfer bench accuracy` as a user types it; what it trains is specified in tests/stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Maskfer


def test_the_list_names_every_system_and_needs_no_data(maskfer: Maskfer) -> None:
    shown = maskfer("bench", "accuracy", "--list")

    names = [line.split()[0] for line in shown.splitlines()]
    assert {"two_branch", "landmark_split", "ran", "oadn", "no_heatmap"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--data is missing"),
        (("--data", "absent"), "absent/faces.parquet"),
        (("--data", "absent", "--systems", "two_branch,resnet"), "no system 'resnet'; expected some of"),
        (("--data", "absent", "--seeds", "1;2"), "--seeds '1;2': expected whole numbers"),
    ],
)
def test_misuse_is_one_line_and_leaves_nothing(
    maskfer: Maskfer, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    work = tmp_path / "work"

    assert said in maskfer("bench", "accuracy", "--work", work, *arguments, code=2)
    assert not work.exists()
