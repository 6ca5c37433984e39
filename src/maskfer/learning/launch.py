"""Run a training to its end, in this process or in one for each accelerator of this machine.

The processes are torchrun's: its agent, which is part of torch, starts `python -m maskfer.learning.worker`
once for each, tells them of each other, and ends them all when one is lost. This process only waits. What it
gets back is the checkpoint of the last epoch, so that whatever follows has nothing to know of them.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, ParamSpec

import torch
from pydantic_core import to_jsonable_python
from torch import Generator
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from maskfer.config import Settings
from maskfer.errors import TrainingError
from maskfer.learning import record
from maskfer.learning.checkpoint import Checkpoint
from maskfer.learning.training import EpochReport, Trainer, Work
from maskfer.provenance import training_code_sha256

Arguments = ParamSpec("Arguments")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Those for which torchrun's agent installs handlers."""


@dataclass(frozen=True, slots=True)
class Trained(Generic[Work]):
    """A run that is over."""

    task: Work
    """Its model has the weights of the best epoch."""
    metrics: dict[str, Any]
    """What `metrics.json` says of it."""
    history: list[EpochReport]
    checkpoint: Checkpoint
    """The last epoch, to be removed once the result is safe."""


def trained(
    make: Callable[Arguments, Trainer[Work]], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Trained[Work]:
    """Run the trainer that `make` makes to its end; it has to have a checkpoint.

    With several accelerators each process makes its own: `make` is a function of a module, its arguments are
    paths, numbers, text or pydantic models. Raises `TrainingError` where training stops or a process is lost.
    """
    trainer = make(*args, **kwargs)
    assert trainer.checkpoint is not None
    count = _processes(trainer)
    if count == 1:
        record.follow(trainer)
    else:
        arguments = inspect.signature(make).bind(*args, **kwargs).arguments
        _run_together(trainer.task.title, job_of(make, arguments), count=count)
        trainer.read_back()
    trainer.task.model.load_state_dict(trainer.best)
    return Trained(trainer.task, record.figures(trainer), trainer.history, trainer.checkpoint)


def job_of(make: Callable[..., Trainer[Any]], arguments: Mapping[str, Any]) -> str:
    """Return what a worker has to make, as JSON."""
    called = {
        "module": make.__module__,
        "function": make.__name__,
        "arguments": arguments,
        "code_sha256": training_code_sha256(),
    }
    return json.dumps(to_jsonable_python(called))


def _processes(trainer: Trainer[Any]) -> int:
    # One for each accelerator unless told otherwise, and none without a row of each batch.
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1:
        raise TrainingError(
            f"{trainer.task.title}: this is one of {started} processes that another launcher started "
            "(WORLD_SIZE), and each would train for itself; start the command once, it starts a process for "
            "each accelerator by itself"
        )
    accelerators = torch.cuda.device_count() if trainer.device.type == "cuda" else 0
    wanted = Settings.load().training_processes or max(1, accelerators)
    if accelerators and wanted > accelerators:
        raise TrainingError(
            f"MASKFER_TRAINING_PROCESSES is {wanted}, but {accelerators} accelerators are visible here; "
            "leave it unset to use them all"
        )
    return min(wanted, len(next(iter(trainer.task.batches(Generator(trainer.device))))))


def _run_together(title: str, job: str, *, count: int) -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # The first process works on the accelerator that this one has used.
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory(prefix="maskfer-training-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(job, encoding="utf-8")
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=secrets.token_hex(8),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            # Otherwise the machine's own name is looked up, which a container's network may not know.
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            with _agent_in_this_process():
                elastic_launch(config, sys.executable)("-m", "maskfer.learning.worker", str(path))
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise TrainingError(_reason(title, failure, rank=rank, count=count)) from None


def _reason(title: str, failure: ProcessFailure, *, rank: int, count: int) -> str:
    told = failure.message["message"] if isinstance(failure.message, dict) else failure.message
    kind, _, ours = str(told).partition(": ")
    # By what it said and not by its exit status alone: where several fail at a time, the agent may have ended
    # it after it had said so.
    if failure.exitcode == TrainingError.exit_code or kind == TrainingError.__name__:
        return ours
    how = f"failed: {' '.join(str(told).split())}"
    if failure.exitcode < 0:
        how = f"was ended by {failure.signal_name()} (out of memory?)"
    return (
        f"{title}: process {rank + 1} of {count} {how}; the last finished epoch is kept, run the command "
        "again to go on from it"
    )


@contextmanager
def _agent_in_this_process() -> Iterator[None]:
    """Give signals and log back as the agent found them: it takes both and says everything many times."""
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    log = logging.getLogger("torch.distributed.elastic")
    quiet, propagates = logging.NullHandler(), log.propagate
    log.addHandler(quiet)
    log.propagate = False
    ended_by = None
    try:
        yield
    except SignalException as caught:
        ended_by = caught.sigval
    finally:
        log.removeHandler(quiet)
        log.propagate = propagates
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if ended_by is not None:
        # All processes are gone: now what this signal means to the program that asked for training.
        signal.raise_signal(ended_by)
