"""One real run of the whole line, shared by the tests that look at what it left."""

from __future__ import annotations

import pytest

from tests.pipelines.laptop import Laptop


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    """A laptop on which `dvc repro` has gone from photographs to a judged and registered model."""
    laptop = Laptop.set_up(tmp_path_factory.mktemp("laptop") / "checkout")
    laptop.run("dvc", "repro")
    return laptop
