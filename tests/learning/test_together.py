"""Processes that train one network together: real ones, started through torchrun's agent, over gloo."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import distributed, nn
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from maskfer.errors import TrainingError
from maskfer.learning import launch
from maskfer.learning.launch import Trained, trained
from maskfer.learning.ranks import Ranks, SharedNorm
from tests.learning import together

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _found_by_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a test starts imports the tests too, computes with one thread, and leaves nothing behind."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


def _run(make: Any, folder: Path, *, processes: int, **arguments: Any) -> Trained[Any]:
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKFER_TRAINING_PROCESSES", str(processes))
        done: Trained[Any] = trained(make, folder / "checkpoint.safetensors", **arguments)
    return done


def _all_weights(done: Trained[Any]) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in done.task.model.state_dict().values()])


@pytest.mark.parametrize(
    ("make", "tolerance"),
    # Where a gradient is nearly zero, AdamW makes a step of its rounding error. In the contest L_r divides by
    # what was painted, in each process's part alone; torch's own normalisation rounds more coarsely, too.
    [(together.expression, 1e-4), (together.inpainting, 2e-2)],
)
def test_two_processes_end_where_one_ends_on_the_same_batches(
    make: Any, tolerance: float, tmp_path: Path
) -> None:
    alone = _run(make, tmp_path / "alone", processes=1)
    both = _run(make, tmp_path / "both", processes=2)

    assert [report.loss for report in both.history] == pytest.approx(
        [report.loss for report in alone.history], rel=1e-3
    )
    before, moved = _all_weights(alone), _all_weights(both) - _all_weights(alone)
    assert moved.norm() / before.norm() < tolerance
    told = [(tmp_path / "both" / f"weights-{rank}-of-2").read_text() for rank in (0, 1)]
    assert told[0] == told[1]


def test_only_the_first_process_judges_and_each_draws_its_own_augmentation(tmp_path: Path) -> None:
    # More are wanted than a batch has rows.
    done = _run(together.line, tmp_path / "run", processes=9)

    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert {name for name in made if name.startswith("judged")} == {"judged-by-0"}
    draws = [(tmp_path / "run" / f"drawn-by-{rank}").read_text().splitlines() for rank in range(3)]
    assert {len(own) for own in draws} == {6}
    for kind in (0, 1):
        # Of the generator for augmentation, and of the global one for dropout.
        assert len({line.split()[kind] for own in draws for line in own}) == 3 * 6
    assert "drawn-by-3" not in made
    assert [report.epoch for report in done.history] == [1, 2, 3]
    assert not [path for path in (tmp_path / "scratch").iterdir() if "torchinductor" not in path.name]


def test_a_loss_that_is_not_a_number_in_one_process_stops_all_with_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError) as caught:
        _run(together.line, tmp_path / "run", processes=2, what="nan")

    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    assert str(caught.value).startswith("expression: the loss is nan at epoch 2, step 1, expected a number; ")
    assert f"epoch 1 is kept in {checkpoint}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_killed_process_ends_all_and_another_number_of_them_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(TrainingError) as caught:
        _run(together.line, tmp_path / "run", processes=2, what="kill")
    assert str(caught.value).startswith("expression: process 2 of 2 was ended by SIGKILL (out of memory?); ")
    assert capfd.readouterr().err == ""
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert logging.getLogger("torch.distributed.elastic").propagate

    alone = _run(together.line, tmp_path / "run", processes=1)
    whole = _run(together.line, tmp_path / "whole", processes=1)

    assert [report.resumed for report in alone.history] == [True, False, False]
    torch.testing.assert_close(_all_weights(alone), _all_weights(whole), rtol=1e-4, atol=1e-5)


def test_an_error_in_one_process_is_named_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingError, match=r"process 2 of 2 failed: RuntimeError: something unexpected; "):
        _run(together.line, tmp_path / "run", processes=2, what="raise")
    assert capfd.readouterr().err.count("Traceback") == 1


@pytest.mark.parametrize("status", [2, -signal.SIGTERM])
def test_an_error_of_ours_is_told_as_it_is_even_where_the_agent_was_faster(status: int) -> None:
    failure = ProcessFailure(0, 1, status, "")
    failure.message = {"message": "TrainingError: the data are gone: build them", "extraInfo": {}}

    assert launch._reason("expression", failure, rank=0, count=2) == "the data are gone: build them"


def test_code_that_was_changed_since_the_command_started_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "training_code_sha256", lambda: "what the command has loaded")

    with pytest.raises(TrainingError, match="code that trains was changed on disk"):
        _run(together.line, tmp_path / "run", processes=2)

    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


_PROGRAM = """
from pathlib import Path
import sys
from maskfer.learning.launch import trained
from tests.learning.together import line
trained(line, Path(sys.argv[1]), what="wait")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_program_that_started_it(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "checkpoint.safetensors")]
    environment = {**os.environ, "MASKFER_TRAINING_PROCESSES": "2"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as program:
        _wait_for((tmp_path / "checkpoint.safetensors").exists)
        children = psutil.Process(program.pid).children()
        program.send_signal(number)

    assert program.returncode == -number
    assert len(children) == 2
    _wait_for(lambda: not any(child.is_running() for child in children))


def _wait_for(come: Any) -> None:
    deadline = time.monotonic() + 60
    while not come():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stage_that_another_launcher_started_several_times_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(TrainingError, match=r"one of 4 processes that another launcher .* start the command"):
        trained(together.line, tmp_path / "checkpoint.safetensors")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_make_up_the_batch_and_differ_by_one_at_most(count: int) -> None:
    batch = torch.arange(7)
    shares = [Ranks(rank, count).share(batch) for rank in range(count)]

    assert sorted(torch.cat(shares).tolist()) == batch.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.fixture
def _one_of_one() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_of_one")
def test_the_shared_normalisation_is_torchs_where_there_is_nobody_to_share_with() -> None:
    torch.manual_seed(0)
    own = nn.BatchNorm2d(3)
    nn.init.normal_(own.weight)
    shared = SharedNorm.of(nn.BatchNorm2d(3))
    shared.load_state_dict(own.state_dict())
    answers, gradients = [], []
    for norm in (own, shared):
        faces = (torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5) % 7).float().requires_grad_()
        answers.append(norm(faces))
        (answers[-1] ** 3).sum().backward()
        gradients.append(faces.grad)
        answers.append(norm.eval()(faces))

    torch.testing.assert_close(answers[2:], answers[:2])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)
    for name, value in own.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value, msg=name)
    assert shared.weight.grad is not None
    torch.testing.assert_close(shared.weight.grad, own.weight.grad, rtol=1e-4, atol=1e-4)
