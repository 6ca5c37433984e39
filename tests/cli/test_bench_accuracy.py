"""`maskfer bench accuracy` as a user types it; what it trains is specified in tests/stages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskfer.cli import bench_accuracy, main
from maskfer.errors import RegistryUnavailable, StageFailed
from maskfer.evaluation.accuracy_table import BEGIN
from maskfer.learning import systems
from maskfer.stages import accuracy
from tests.cli.conftest import Maskfer


def test_the_list_names_every_system_and_needs_no_data(maskfer: Maskfer) -> None:
    shown = maskfer("bench", "accuracy", "--list")

    names = [line.split()[0] for line in shown.splitlines()]
    assert names == list(systems.SYSTEMS)


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


def test_trials_that_fail_are_named_each_and_the_command_says_so(
    known_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its faces are test people's: nothing to train on.
    asked = ["--data", known_table.parent, "--work", tmp_path / "work", "--seeds", "1"]
    chosen = ["--systems", "no_heatmap,two_branch"]
    monkeypatch.setattr(sys, "argv", ["maskfer", "bench", "accuracy", *map(str, asked), *chosen])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    first, second, last = capsys.readouterr().err.splitlines()
    assert first.startswith("no_heatmap, seed 1 failed and is left out: ")
    assert second.startswith("two_branch, seed 1 failed and is left out: ")
    assert last.startswith("maskfer: error: 2 of 2 trials failed")
    assert not (tmp_path / "work" / "table.md").exists()


def test_a_page_that_cannot_take_the_table_is_refused_before_anything_is_trained(
    maskfer: Maskfer, known_table: Path, tmp_path: Path
) -> None:
    page, work = tmp_path / "results.md", tmp_path / "work"
    page.write_text(f"# Results\n\n{BEGIN}\n", encoding="utf-8")

    said = maskfer(
        "bench", "accuracy", "--data", known_table.parent, "--work", work, "--results", page, code=2
    )

    assert "one of the marks" in said
    assert not work.exists()


def test_a_registry_that_is_away_costs_no_trial_its_place_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"accuracy": 0.5, "macro_f1": 0.5}
    trial = SimpleNamespace(
        system=systems.SYSTEMS["ran"], seed=1, trained=True, result={"masked": figures, "unmasked": figures}
    )
    tables: list[int] = []

    def away(*_: object, **__: object) -> None:
        raise RegistryUnavailable("no answer")

    monkeypatch.setattr(accuracy, "run", lambda *_, **__: iter([trial]))
    monkeypatch.setattr(accuracy, "write_table", lambda trials, *_, **__: tables.append(len(trials)))
    monkeypatch.setattr(accuracy, "log", away)

    asked = ["--data", tmp_path, "--systems", "ran", "--seeds", "1", "--work", tmp_path]
    monkeypatch.setattr(sys, "argv", ["maskfer", "bench", "accuracy", *map(str, asked)])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first == "ran, seed 1 could not be logged: no answer"
    assert last.startswith("maskfer: error: 1 of 1 trials could not be logged to MLflow")
    assert tables == [1]


@pytest.mark.parametrize(
    ("failures", "unlogged", "said"),
    [
        (2, 1, "2 of 6 trials failed.*the other 4"),
        (0, 1, "1 of 4 trials could not be logged.*trains nothing"),
    ],
)
def test_what_failed_and_what_was_not_logged_end_the_command(failures: int, unlogged: int, said: str) -> None:
    error = RegistryUnavailable("no answer")

    with pytest.raises(StageFailed, match=said):
        bench_accuracy._require_all_well([error] * failures, [error] * unlogged, done=4, total=6)
