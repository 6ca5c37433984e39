"""Follows a registry's alias: loads a new version beside what is served, and lets it in only if it is sound.

Nothing here touches a request. Whoever answers takes the present scorer once, and a change replaces that one
reference: a request that has begun ends with the model it began with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from starlette.datastructures import State

from maskfer.config import Settings
from maskfer.errors import MaskferError, ModelNotFound, ReleaseError
from maskfer.golden import checked_analyzer
from maskfer.release import Release
from services.model import ServedModel, followed_alias, registered_model
from services.scoring import metrics
from services.scoring.scorer import Scorer
from services.scoring.shadow import Challenger, Shadow

if TYPE_CHECKING:
    from maskfer.registry import ModelVersion

_log: Final = logging.getLogger("maskfer.scoring.models")
_LONGEST_WAIT_S: Final = 60.0
"""A refused version is tried again, less and less often down to this: its files may have been repaired."""

T = TypeVar("T")


@dataclass(slots=True)
class Counts:
    """What a follower met since its process started."""

    looks: int = 0
    """Times the registry was asked."""
    switched: int = 0
    """Times another version took over."""
    refused: int = 0
    """Tries of a version that failed: files, hashes, graph, golden faces."""
    unreachable: int = 0
    """Looks at the registry without an answer."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    version: str
    cause: type[Exception]
    wait_s: float
    again_at: float
    """On the monotonic clock."""


class Follower(Generic[T]):
    """Looks every `MASKFER_MODEL_POLL_S` where an alias points and brings in another version.

    `prepare` makes what answers of a verified release, and raises where it must not be served; `put` lets it
    in. Whatever fails, what was put in before stays, one line is logged for each cause, and `counts` goes up,
    with the metrics of `role`.
    `gone` is called where the registry answers that there is no such alias any more.
    """

    def __init__(
        self,
        alias: str,
        settings: Settings,
        *,
        prepare: Callable[[ServedModel], T],
        put: Callable[[T], None],
        gone: Callable[[], None] | None = None,
        serves: ServedModel | None = None,
        role: metrics.Role = "champion",
    ) -> None:
        self.alias = alias
        self.counts = Counts()
        self._settings = settings
        self._prepare = prepare
        self._put = put
        self._gone = gone
        self._serves = serves
        self._role = role
        self._silence: type[Exception] | None = None
        self._refusal: _Refusal | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Follow in a thread of its own until `stop`, or the end of the process."""
        _log.setLevel(logging.INFO)  # BentoML shows warnings only; a change of the model is to be seen
        threading.Thread(target=self._run, name=f"follow-{self.alias}", daemon=True).start()

    def stop(self) -> None:
        """End the thread after the look it is at."""
        self._stopped.set()

    def look(self) -> None:
        """Ask the registry once, and change over where the alias points elsewhere; never raises."""
        from maskfer.registry import Registry

        # A new one each time: it asks first whether the registry is there, which takes three seconds at most.
        registry = Registry(self._settings)
        self._count("looks")
        try:
            version = registry.resolve(self.alias)
        except ModelNotFound as error:
            self._lost(error)
            return
        except Exception as error:  # noqa: BLE001 - without a registry the service answers on
            self._not_reached(error)
            return
        self._reached()
        if self._is_served(version):
            self._refusal = None
            return
        waiting = self._refusal
        if waiting is None or waiting.version != _key(version) or time.monotonic() >= waiting.again_at:
            self._change_to(version)

    def _run(self) -> None:
        self.look()
        while not self._stopped.wait(self._settings.model_poll_s):
            self.look()

    def _change_to(self, version: ModelVersion) -> None:
        from maskfer.registry import Registry

        registry = Registry(self._settings)
        try:
            model = registered_model(registry, version)
            ready = self._prepare(model)
            # Loading takes a while: a rollback meanwhile must not be followed by what it took back.
            moved = _key(registry.resolve(self.alias)) != _key(version)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the one that is served stays
            self._refuse(version, error)
            return
        if moved:
            return
        self._put(ready)
        before = "" if self._serves is None else f" (before: v{self._serves.version})"
        self._serves, self._refusal = model, None
        _log.info("%s is now %s%s, sha256 %s", self.alias, version, before, model.sha256[:12])
        self._count("switched")

    def _count(self, event: metrics.ModelEvent) -> None:
        setattr(self.counts, event, getattr(self.counts, event) + 1)
        metrics.model_event(self._role, event)

    def _is_served(self, version: ModelVersion) -> bool:
        now = self._serves
        return (
            now is not None
            and (now.name, now.version) == (version.name, str(version.version))
            and version.release_sha256 in {None, now.sha256}
        )

    def _refuse(self, version: ModelVersion, error: Exception) -> None:
        known = self._refusal if self._refusal and self._refusal.version == _key(version) else None
        wait_s = min(2 * known.wait_s, _LONGEST_WAIT_S) if known else self._settings.model_poll_s
        self._refusal = _Refusal(_key(version), type(error), wait_s, time.monotonic() + wait_s)
        if known is None or known.cause is not type(error):
            _log.error(
                "%s: %s is refused, %s: %s",
                *(self.alias, version, self._stays(), error),
                exc_info=_unforeseen(error),
            )
        self._count("refused")

    def _not_reached(self, error: Exception) -> None:
        if self._silence is not type(error):
            self._silence = type(error)
            _log.warning(
                "%s: cannot be followed, %s: %s",
                *(self.alias, self._stays(), error),
                exc_info=_unforeseen(error),
            )
        self._count("unreachable")

    def _lost(self, error: ModelNotFound) -> None:
        if self._gone is None:
            self._not_reached(error)
            return
        self._gone()
        self._serves = self._refusal = None
        if self._silence is not type(error):
            self._silence = type(error)
            _log.info("%s: nothing there: %s", self.alias, error)

    def _reached(self) -> None:
        if self._silence is not None:
            self._silence = None
            _log.info("%s: can be followed again", self.alias)

    def _stays(self) -> str:
        return "nothing is loaded" if self._serves is None else f"v{self._serves.version} stays"


def follow_champion(
    state: State, settings: Settings, *, make: Callable[[ServedModel], Scorer]
) -> Follower[Scorer] | None:
    """Keep `state.scorer` at what the alias of the service's model points to; None where nothing can move.

    `make` opens a scorer for a model and raises where the model does not answer its golden faces.
    """
    alias = followed_alias(settings.scoring_model, settings)
    if alias is None:
        return None

    def prepare(model: ServedModel) -> Scorer:
        check_exchangeable(model.release, state.scorer.model.release)
        return make(model)

    def put(scorer: Scorer) -> None:
        state.scorer = scorer

    follower = Follower(alias, settings, prepare=prepare, put=put, serves=state.scorer.model)
    follower.start()
    return follower


def follow_challenger(
    state: State, settings: Settings, shadow: Shadow, *, reference: str
) -> Follower[Challenger]:
    """Keep `shadow.challenger` at what `reference` points to; None while it points to nothing."""

    def prepare(model: ServedModel) -> Challenger:
        check_exchangeable(model.release, state.scorer.model.release)
        return Challenger(model, checked_analyzer(model.release))

    def put(challenger: Challenger | None) -> None:
        shadow.challenger = challenger

    follower = Follower(
        reference, settings, prepare=prepare, put=put, gone=lambda: put(None), role="challenger"
    )
    follower.start()
    return follower


def check_exchangeable(new: Release, served: Release) -> None:
    """Raise `ReleaseError` where clients would notice more than other probabilities.

    They cut crops of the size they were told and read classes by name, and statistics are kept by class.
    """
    for what in ("classes", "orientations", "crop_size", "crop_context"):
        got, told = getattr(new, what), getattr(served, what)
        if got != told:
            raise ReleaseError(
                f"{new.path}: {what} is {got}, clients were told {told}; restart the service to serve it"
            )


def _key(version: ModelVersion) -> str:
    return f"{version} {version.release_sha256}"


def _unforeseen(error: Exception) -> Exception | None:
    return None if isinstance(error, MaskferError) else error
