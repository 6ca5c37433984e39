"""Who was champion when, and why: an append-only list of events, and what follows from it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Event:
    """The champion changed."""

    event_id: str
    """The MLflow run that holds the event and the decision behind it."""
    kind: Literal["promoted", "rolled_back"]
    version: int
    previous: int | None
    """Champion before; None where there was none."""
    at: datetime
    actor: str
    reason: str
    forced: bool
    """Whether a person overruled or skipped the policy."""
    release_sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self) | {"at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class Reign:
    """One version's time as champion."""

    version: int
    since: datetime
    until: datetime | None
    """None while it lasts."""
    event: Event


@dataclass(frozen=True, slots=True)
class History:
    """The events of one model, oldest first, and what the registry says now."""

    name: str
    events: tuple[Event, ...]
    champion: int | None
    existing: frozenset[int]
    """Versions that still exist; events outlive them."""

    @property
    def reigns(self) -> list[Reign]:
        """Every time of a champion, oldest first."""
        ends = [event.at for event in self.events[1:]]
        return [
            Reign(event.version, event.at, until, event)
            for event, until in zip(self.events, [*ends, None], strict=False)
        ]

    @property
    def recorded_champion(self) -> int | None:
        """The version that the last event made champion; None where there is no event."""
        return self.events[-1].version if self.events else None

    @property
    def discrepancy(self) -> str | None:
        """What is wrong where the alias is not where the last event put it; None where all is well."""
        recorded = self.recorded_champion
        if recorded == self.champion:
            return None
        if self.champion is None and recorded not in self.existing:
            return (
                f"champion v{recorded} was deleted: nothing answers to @champion; "
                "run `maskfer models rollback`"
            )
        return (
            f"the last recorded champion is {_version(recorded)}, the alias is at {_version(self.champion)}: "
            "it was moved without maskfer, or maskfer was killed while it moved it; settle it with "
            "`maskfer models promote` or `rollback`"
        )

    @property
    def earlier_champion(self) -> int | None:
        """The version that `rollback` goes back to: the latest earlier champion that still exists.

        Where the alias is there already without an event, the rollback was killed: it is not taken back.
        """
        before = earlier_champion(self.events, champion=self.recorded_champion, existing=self.existing)
        if before is not None and before == self.champion:
            return before
        return earlier_champion(self.events, champion=self.champion, existing=self.existing)

    @property
    def opponent(self) -> int | None:
        """The version a candidate is judged against: the champion or, where the alias is gone, the latest
        recorded one that still exists. None where nobody was champion yet, or none of them exists."""
        return self.earlier_champion if self.champion is None else self.champion

    def rolled_back_from(self, version: int, *, release_sha256: str | None) -> Event | None:
        """Return the rollback that gave this release up; None where none did, or it was champion since.

        A version that was deleted and registered again is the same release under another number.
        """
        numbers = {version}
        if release_sha256 is not None:
            numbers |= {event.version for event in self.events if event.release_sha256 == release_sha256}
        for before, event in reversed([*zip((None, *self.events), self.events, strict=False)]):
            # A rollback from a deleted champion finds nobody in its place.
            left = event.previous if event.previous is not None or before is None else before.version
            if event.version in numbers:
                return None
            if left in numbers:
                return event if event.kind == "rolled_back" else None
        return None

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "name": self.name,
            "champion": self.champion,
            "discrepancy": self.discrepancy,
            "reigns": [
                {
                    **reign.event.to_json(),
                    "until": reign.until.isoformat() if reign.until else None,
                    "exists": reign.version in self.existing,
                }
                for reign in self.reigns
            ],
        }


def earlier_champion(
    events: Sequence[Event], *, champion: int | None, existing: Collection[int]
) -> int | None:
    """Return the champion before `champion` among those that exist; None where there is none.

    A rollback takes back the promotions after its target: a second rollback goes one further back, not forth.
    """
    stack: list[int] = []
    for event in events:
        if event.kind == "rolled_back":
            while stack and stack[-1] != event.version:
                stack.pop()
        if not stack or stack[-1] != event.version:
            stack.append(event.version)
    if stack and stack[-1] == champion:
        stack.pop()
    return next((version for version in reversed(stack) if version in existing and version != champion), None)


def _version(version: int | None) -> str:
    return "nobody" if version is None else f"v{version}"
