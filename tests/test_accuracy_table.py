"""The accuracy table as text: mean, spread, dashes, and a page whose other parts nobody touches."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskfer.errors import InputError
from maskfer.evaluation.accuracy_table import BEGIN, END, Row, markdown, replace_section


def _result(accuracy: float) -> dict[str, object]:
    return {
        "masked": {"accuracy": accuracy, "macro_f1": None, "per_class": {"neutral": {"f1": 0.5}}},
        "parameters": 1_600_000,
    }


def test_a_cell_has_mean_and_spread_over_the_seeds() -> None:
    row = Row("ours", {1: _result(0.7), 2: _result(0.8), 3: _result(0.9)})

    assert row.cell("masked", "accuracy") == "0.800 ± 0.100"


def test_one_seed_has_no_spread_and_an_unknown_figure_is_a_dash() -> None:
    row = Row("ours", {1: _result(0.7)})

    assert row.cell("masked", "accuracy") == "0.700"
    assert row.cell("masked", "macro_f1") == "-"
    assert row.cell("unmasked", "accuracy") == "-"


def test_two_systems_are_compared_seed_by_seed() -> None:
    ours = Row("ours", {1: _result(0.7), 2: _result(0.8)})
    theirs = Row("theirs", {2: _result(0.7), 1: _result(0.65), 3: _result(0.1)})

    assert theirs.behind(ours, "masked", "accuracy") == "+0.075 ± 0.035"
    assert ours.behind(ours, "masked", "accuracy") == "-"
    assert Row("new", {4: _result(0.7)}).behind(ours, "masked", "accuracy") == "-"


def test_what_paints_and_finds_landmarks_gets_a_table_of_its_own() -> None:
    found = {"inpainting": {"psnr": 18.25}, "landmarks": {"nme_masked": 0.0812}}
    rows = [Row("ours", {1: _result(0.7)}), Row("approach 1", {1: _result(0.6) | found})]

    tables = markdown(rows, orientations=["up"], classes=["neutral"]).strip().split("\n\n")

    assert "networks before the expression" in tables[-1]
    assert "| approach 1 | - | 18.2 | - | - | - | 0.0812 | - | - | - |" in tables[-1]
    assert "ours" not in tables[-1]


def test_every_line_of_a_table_has_as_many_cells_as_its_header() -> None:
    text = markdown([Row("ours", {1: _result(0.7)})], orientations=["up", "down"], classes=["neutral"])

    for table in text.strip().split("\n\n"):
        counts = {line.count("|") for line in table.splitlines()}
        assert len(counts) == 1
    assert "| ours | 1 | 0.700 | - | - | - | - | 1.6 |" in text


def test_only_the_section_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    replace_section(page, "new\n")

    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_a_page_without_its_second_mark_is_refused_and_stays(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"before\n{BEGIN}\nold\n")

    with pytest.raises(InputError, match="missing"):
        replace_section(page, "new\n")
    assert page.read_text() == f"before\n{BEGIN}\nold\n"
