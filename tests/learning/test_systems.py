"""The systems of the accuracy table have names of their own and parameters that are allowed."""

from __future__ import annotations

from maskfer.config import Params
from maskfer.learning import systems


def test_the_names_of_systems_are_unlike_and_all_can_be_made() -> None:
    assert len(systems.SYSTEMS) == len(systems.METHODS) + len(systems.VARIANTS)
    for system in systems.SYSTEMS.values():
        assert system.params(Params(), seed=3).seed == 3
