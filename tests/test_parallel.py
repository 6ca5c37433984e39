"""Work on every core keeps its order, and a worker that dies is an error with a name."""

from __future__ import annotations

import math
import os

import pytest

from maskfer.errors import StageFailed
from maskfer.parallel import map_in_processes


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    squares = [float(number**2) for number in range(50)]
    assert list(map_in_processes(math.sqrt, squares, title="roots", workers=workers)) == list(range(50))
    assert "roots: 50 of 50" in capsys.readouterr().out


def test_nothing_to_do_is_no_error() -> None:
    assert list(map_in_processes(math.sqrt, [], title="roots")) == []


def test_an_error_of_the_work_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(map_in_processes(math.sqrt, [4.0, -1.0], title="roots", workers=2))


def test_a_worker_that_dies_is_named_with_its_step() -> None:
    with pytest.raises(StageFailed, match="roots: a worker process died"):
        list(map_in_processes(os._exit, [3, 3, 3], title="roots", workers=2))
