"""Stage `register`: a judged release becomes a version and, if the policy allows, the champion."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from maskfer import atomic
from maskfer import release as releases
from maskfer.config import Params, Settings
from maskfer.data.table import table_sha256
from maskfer.errors import DatasetError, RegistryError, ReleaseError
from maskfer.evaluation.card import model_card
from maskfer.evaluation.predictions import PredictionTable
from maskfer.promotion import Decision, PromotionPolicy, compare, judge_first
from maskfer.promotion.report import decision_table, to_markdown
from maskfer.registry import History, ModelVersion, Registry
from maskfer.release import Release
from maskfer.stages import evaluate

DECISION_JSON: Final = "decision.json"
DECISION_MARKDOWN: Final = "decision.md"
RELEASE: Final = "release"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegisterReport:
    """What became of the release."""

    version: ModelVersion
    promoted: bool
    """Whether this run made it the champion; False as well where it was the champion before."""
    decision: Decision


def run(
    release_dir: Path,
    evaluation_dir: Path,
    faces: Path,
    out: Path,
    *,
    params: Params,
    settings: Settings,
    policy: PromotionPolicy,
) -> RegisterReport:
    """Register a release with its figures and promote it if it is not worse than the champion.

    What a person rolled back from is not promoted again: an unchanged run would undo what that person did.
    Where the champion was deleted or lost its alias, the latest one that still exists stands in its place.
    Writes `out/release`, `out/decision.json` and `out/decision.md`. Raises `DatasetError` where the
    evaluation is of another release or faces table, `RegistryError` or `ReleaseError` naming the champion
    where it cannot be loaded: the candidate is registered then, and not promoted.
    """
    release = releases.read(release_dir)
    metrics = _matching_metrics(evaluation_dir, release, faces)
    predictions = PredictionTable.read(evaluation_dir / evaluate.PREDICTIONS)
    registry = Registry(settings)
    with atomic.new_folder(out, holds=(DECISION_JSON, DECISION_MARKDOWN, RELEASE)) as work:
        plots = {path.name: path for path in sorted((evaluation_dir / evaluate.PLOTS).glob("*.png"))}
        card = model_card(release, metrics=metrics, plots=[*plots, *_plot_names(release)])
        final = releases.judged(release, work / RELEASE, metrics=metrics, card=card, plots=plots)
        champion = registry.champion()
        version = registry.register(final)
        if (settled := _settled(version, champion, registry.history())) is not None:
            _write(settled, version, work)
            return RegisterReport(version, False, settled)
        opponent = registry.opponent()
        try:
            decision = _decide(
                predictions, release, opponent, registry, faces, params=params, metrics=metrics, policy=policy
            )
        except (RegistryError, ReleaseError) as error:
            _refuse_unjudged(registry, version, opponent, error)
            raise type(error)(
                f"champion cannot be loaded, so {version} was registered and not promoted: {error}"
            ) from error
        files = _write(decision, version, work)
        version = registry.record_decision(version, decision.to_json(), files=files)
        if decision.promote:
            registry.promote(version, reason=decision.reason)
            version = registry.resolve(str(version))
    Console().print(decision_table(decision.to_json()))
    return RegisterReport(version, decision.promote, decision)


def _settled(version: ModelVersion, champion: ModelVersion | None, history: History) -> Decision | None:
    """Return the verdict on a version that need not be judged again; its recorded decision stays."""
    number = champion.version if champion else None
    if number == version.version:
        return Decision(False, f"{version} is the champion already", number)
    by_hand = f"promote it by hand with `maskfer models promote {version} --reason WHY`"
    rollback = history.rolled_back_from(version.version, release_sha256=version.release_sha256)
    if rollback is not None:
        who = f"{rollback.actor}, {rollback.at:%Y-%m-%d %H:%M} UTC"
        reason = f"a person rolled back from this release ({who}): {rollback.reason}; {by_hand}"
        return Decision(False, reason, number)
    if champion is None and history.opponent == version.version:
        reason = (
            f"nobody is champion, and {version} is itself the latest champion that still exists: "
            "`maskfer models rollback` makes it champion again"
        )
        return Decision(False, reason, None)
    if history.recorded_champion == version.version:
        return Decision(False, f"the alias was moved away from {version} without maskfer; {by_hand}", number)
    return None


def _decide(
    predictions: PredictionTable,
    release: Release,
    champion: ModelVersion | None,
    registry: Registry,
    faces: Path,
    *,
    params: Params,
    metrics: dict[str, Any],
    policy: PromotionPolicy,
) -> Decision:
    samples, seed = params.evaluation.bootstrap_samples, params.seed
    if champion is None and registry.history().events:
        reason = (
            "there were champions and none of them exists any more, so there is nobody to judge against; "
            "choose by hand with `maskfer models promote VERSION --force --reason WHY`"
        )
        return Decision(False, reason, None)
    if champion is None:
        return judge_first(predictions, policy=policy, samples=samples, seed=seed)
    reigning = registry.download(champion)
    if reigning.classes != release.classes:
        reason = (
            f"other classes than champion v{champion.version}: {list(release.classes)} against "
            f"{list(reigning.classes)}, so the two cannot be compared"
        )
        return Decision(False, reason, champion.version)
    if _crop(reigning) != _crop(release):
        reason = (
            f"other crops than champion v{champion.version}: {_crop(release)} against {_crop(reigning)}, so "
            "no table has faces for both; choose by hand with `maskfer models promote --force`"
        )
        return Decision(False, reason, champion.version)
    judged = evaluate.judge_release(reigning, faces, split=str(metrics["split"]), params=params.evaluation)
    return compare(
        predictions,
        judged.predictions,
        champion_version=champion.version,
        policy=policy,
        samples=samples,
        seed=seed,
        notes=_notes(release, reigning, champion),
    )


def _crop(release: Release) -> str:
    return f"{release.crop_size} pixels of {release.crop_context:g} times the detector's box"


def _notes(release: Release, reigning: Release, champion: ModelVersion) -> tuple[str, ...]:
    notes = []
    if not champion.is_champion:
        notes.append(
            f"nobody is champion (deleted, or its alias removed): judged against v{champion.version}, the "
            "latest champion that still exists"
        )
    trained_on, theirs = release.metadata.lineage.dataset_sha256, reigning.metadata.lineage.dataset_sha256
    if trained_on != theirs:
        notes.append(
            f"champion v{champion.version} was trained on another dataset ({theirs[:12]}, candidate "
            f"{trained_on[:12]}): test people may have been among its training people, which favours it"
        )
    return tuple(notes)


def _matching_metrics(evaluation_dir: Path, release: Release, faces: Path) -> dict[str, Any]:
    path = evaluation_dir / evaluate.METRICS
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: no evaluation there ({error}); run stage evaluate first") from error
    expected = {"release_sha256": release.sha256, "dataset_sha256": table_sha256(faces)}
    for key, value in expected.items():
        if metrics.get(key) != value:
            raise DatasetError(
                f"{path}: {key} is {str(metrics.get(key))[:12]}, expected {value[:12]}: the evaluation is "
                "not of this release on this faces table; run stage evaluate again"
            )
    return metrics


def _refuse_unjudged(
    registry: Registry, version: ModelVersion, champion: ModelVersion | None, error: Exception
) -> None:
    number = champion.version if champion else None
    decision = Decision(False, f"champion v{number} cannot be loaded: {error}", number)
    try:
        registry.record_decision(version, decision.to_json())
    except RegistryError as second:
        # The first error is the one to tell; a registry that went away explains both.
        _log.warning("the refusal could not be recorded on %s: %s", version, second)


def _write(decision: Decision, version: ModelVersion, work: Path) -> list[Path]:
    plain = {"version": version.version, **decision.to_json()}
    texts = {
        work / DECISION_JSON: json.dumps(plain, indent=2) + "\n",
        work / DECISION_MARKDOWN: to_markdown(plain, of=str(version)),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _plot_names(release: Release) -> list[str]:
    return [name.removeprefix(releases.PLOTS) for name in release.files if name.startswith(releases.PLOTS)]
