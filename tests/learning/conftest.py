"""What the tests of learning share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from maskfer.learning.faces import Faces
from tests.learning.faces import make_twins


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only waits, and where other work runs beside it waits long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def twins() -> Callable[..., Faces]:
    """Make `count` faces and their masked twins; brightness is the class, a bright box the mask."""
    return make_twins
