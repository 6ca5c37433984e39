"""`maskfer bench accuracy` as a user types it; what it trains is specified in tests/stages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskfer.cli import bench_accuracy, main
from maskfer.errors import RegistryUnavailable, StageFailed, TrainingError
from maskfer.evaluation.accuracy_table import BEGIN
from maskfer.learning import systems
from maskfer.learning.systems import System
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


Run = Callable[..., Iterator[SimpleNamespace]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], int]:
    """Run the command on RAN with two seeds, with another `accuracy.run`; returns its exit code."""

    def run(trials: Run) -> int:
        asked = ["--data", tmp_path, "--systems", "ran", "--seeds", "1,2", "--work", tmp_path / "work"]
        monkeypatch.setattr(sys, "argv", ["maskfer", "bench", "accuracy", *map(str, asked)])
        monkeypatch.setattr(accuracy, "run", trials)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The seeds in each table that is written, in turn."""
    written: list[list[int]] = []
    monkeypatch.setattr(
        accuracy, "write_table", lambda trials, *_, **__: written.append([trial.seed for trial in trials])
    )
    return written


def ran(seed: int) -> SimpleNamespace:
    figures = {"accuracy": 0.5, "macro_f1": 0.5}
    result = {"masked": figures, "unmasked": figures}
    return SimpleNamespace(system=systems.SYSTEMS["ran"], seed=seed, trained=True, result=result)


def test_trials_that_fail_are_named_each_and_the_command_says_so(
    command: Callable[[Run], int], tables: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    def trials(
        *_: object, systems: list[System], seeds: list[int], on_failure: Callable[..., None], **__: object
    ) -> Iterator[SimpleNamespace]:
        for seed in seeds:
            on_failure(systems[0], seed, TrainingError("expression: the loss is nan"))
        yield from ()

    assert command(trials) == 2
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "ran, seed 1 failed and is left out: expression: the loss is nan"
    assert second == "ran, seed 2 failed and is left out: expression: the loss is nan"
    assert last.startswith("maskfer: error: 2 of 2 trials failed")
    assert not tables


def test_what_is_there_is_in_the_table_before_anything_is_trained(
    command: Callable[[Run], int], tables: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "log", lambda *_, **__: None)

    def trials(*_: object, train: bool, **__: object) -> Iterator[SimpleNamespace]:
        yield from (ran(1), ran(2)) if train else (ran(2),)

    assert command(trials) == 0
    assert tables == [[2], [2, 1]]


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
    command: Callable[[Run], int],
    tables: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def away(*_: object, **__: object) -> None:
        raise RegistryUnavailable("no answer")

    monkeypatch.setattr(accuracy, "log", away)

    assert command(lambda *_, **__: iter([ran(1)])) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first == "ran, seed 1 could not be logged: no answer"
    assert last.startswith("maskfer: error: 1 of 1 trials could not be logged to MLflow")
    assert tables == [[1]]


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
