"""`python -m maskfer.learning.worker JOB`: one of the processes that train together, started by `launch`.

It makes the trainer that the job names and trains with the others; the first one shows the epochs and writes
the checkpoint. An error is left for the agent to find, in the file that torchrun names for it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import validate_call
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import record as recorded

from maskfer.errors import MaskferError, TrainingError
from maskfer.learning import record
from maskfer.learning.ranks import Ranks
from maskfer.learning.training import Trainer
from maskfer.provenance import training_code_sha256

_PATIENCE_S: Final = 3.0
"""Time for the agent to end this process: where another was lost, this one's error says nothing."""
_TIMEOUT: Final = timedelta(minutes=30)
"""Wait for each other: while the first process judges an epoch, the others have nothing to do."""


def _train(job: Path) -> None:
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    _end_with_parent()
    try:
        device = _own_device(ranks)
        trainer = _make(job)
        trainer.ranks = ranks
        distributed.init_process_group(
            "gloo" if device is None else "nccl", timeout=_TIMEOUT, device_id=device
        )
        if ranks.leads:
            record.follow(trainer)
        else:
            for _ in trainer.epochs():
                pass
        distributed.barrier()
        distributed.destroy_process_group()
    except MaskferError:
        raise
    except Exception:
        # Only held back, not swallowed: it goes to the agent unless that ends this process first.
        time.sleep(_PATIENCE_S)
        raise


def _make(job: Path) -> Trainer[Any]:
    called = json.loads(job.read_text(encoding="utf-8"))
    if called["code_sha256"] != training_code_sha256():
        raise TrainingError(
            "the code that trains was changed on disk since this command was started; start it again"
        )
    make = getattr(import_module(called["module"]), called["function"])
    trainer: Trainer[Any] = validate_call(make)(**called["arguments"])
    return trainer


def _own_device(ranks: Ranks) -> torch.device | None:
    """Make this process's accelerator the current one and return it; None where all share the processor."""
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.rank)
        return torch.device("cuda", ranks.rank)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks.count))
    return None


def _end_with_parent() -> None:
    """End when the process that started this one is gone: an orphan would train on, beside the next run."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    try:
        recorded(_train)(Path(sys.argv[1]))
    except MaskferError as error:
        sys.exit(error.exit_code)
    except Exception:  # noqa: BLE001 - whatever it was, it ends this process
        traceback.print_exc()
        sys.stderr.flush()
        # At once: an interpreter's end takes longer than the others' patience.
        os._exit(1)
