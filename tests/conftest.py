"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

from maskfer import release as releases
from maskfer.release import Release

pytest_plugins = ("tests.known", "tests.drawn")

# No test asserts a time; a busy machine would fail it. The same examples every time, so that a change is
# judged by what it changed; `--hypothesis-profile=exploring` looks for others.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.register_profile("exploring", deadline=None)
hypothesis.settings.load_profile("fixed")

_LONGEST = (
    "pipelines/test_reproduction.py",
    "integration/test_labeling.py",
    "learning/test_together.py",
    "stages/test_train_stages.py",
    "integration/page/test_page.py",
    "integration/test_live_application.py",
    "integration/test_model_updates.py",
    "integration/test_guarding.py",
    "integration/test_hostile.py",
)
_TESTS = Path(__file__).parent
_SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: begun last, one of them would keep a single process busy at the end."""
    rank = {_TESTS / name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real photographs and footage beside the checkout; skips where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip("the real photographs (../shared) are not on this machine")
    return _SHARED


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release of a small seeded network, written by the real code; it answers, but knows nothing."""
    pytest.importorskip("torch", reason="the learning extra is not installed")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # all processes share it: its graph takes ten seconds
    with FileLock(folder / "tiny.lock"):
        made = folder / "tiny" / "release"
        return releases.read(made) if made.is_dir() else _make_tiny(made)


def _make_tiny(out: Path) -> Release:
    import torch

    from maskfer.config import Params
    from maskfer.learning.export import write_release
    from maskfer.learning.models.mask_aware import MaskAwareNet
    from maskfer.learning.models.mask_classifier import MaskClassifier
    from maskfer.learning.models.two_branch import TwoBranchNet
    from maskfer.release import Lineage

    params = Params.model_validate(
        {"mask_classifier": {"width": 8}, "expression": {"width": 8, "aligned": False}}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskAwareNet(
            mask_classifier=MaskClassifier(width=8),
            expression=TwoBranchNet(classes=len(params.classes), width=8),
        )
    return write_release(out, model=model, params=params, lineage=Lineage(dataset_sha256="0" * 64))
