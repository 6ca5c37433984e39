"""The comparison that the policy asks for, and its verdict.

Both answer the same test faces. For each slice and figure the paired bootstrap over people gives a bound:
with the slice's confidence, the candidate's figure minus the champion's is not below it. The candidate passes
where no bound of a judged slice lies below minus the margin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float, Int64

from maskfer import metrics
from maskfer.errors import DatasetError
from maskfer.evaluation.predictions import PredictionTable
from maskfer.labels import ORIENTATIONS
from maskfer.metrics import PairedCounts
from maskfer.promotion.policy import ClassPolicy, Metric, PromotionPolicy, SlicePolicy


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one slice, candidate against champion."""

    slice: str
    metric: Metric
    n: int
    """Labelled faces."""
    people: int
    """Clusters of faces that the bootstrap drew from."""
    candidate: float | None
    champion: float | None
    difference: float | None
    """Candidate minus champion."""
    interval: tuple[float, float] | None
    """90 % of the resampled differences lie in it."""
    bound: float | None
    """With `confidence`, the difference is not below this."""
    confidence: float
    required: float
    """The bound must not be below this: minus the margin."""
    verdict: Literal["passes", "worse", "not judged"]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says about a candidate, with every number behind it."""

    promote: bool
    reason: str
    champion: int | None
    """Version it was judged against; None where there was none."""
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def compare(
    candidate: PredictionTable,
    champion: PredictionTable,
    *,
    champion_version: int,
    policy: PromotionPolicy,
    samples: int,
    seed: int,
    notes: tuple[str, ...] = (),
) -> Decision:
    """Judge a candidate against the champion on the same faces.

    Raises `DatasetError` where the two did not answer the same faces with the same classes.
    """
    if candidate.face_ids != champion.face_ids or candidate.classes != champion.classes:
        raise DatasetError(
            f"candidate and champion v{champion_version} did not answer the same: {len(candidate)} faces of "
            f"{list(candidate.classes)} against {len(champion)} of {list(champion.classes)}; "
            "evaluate both on one faces table"
        )
    comparisons: list[Comparison] = []
    for part in _slices(candidate, policy):
        comparisons += _compare_slice(part, candidate, champion.answers, samples=samples, seed=seed)
    worse = [one for one in comparisons if one.verdict == "worse"]
    skipped = sorted({f"{one.slice} ({one.note})" for one in comparisons if one.verdict == "not judged"})
    if any(one.slice == "overall" and one.verdict == "not judged" for one in comparisons):
        reason = f"too few labelled test faces to judge anything: {comparisons[0].note}"
        return Decision(False, reason, champion_version, tuple(comparisons), notes)
    judged = sum(one.verdict != "not judged" for one in comparisons)
    reason = _complaint(worse, judged, champion_version) or (
        f"not worse than champion v{champion_version} beyond the margin on any judged slice"
    )
    if skipped:
        reason += f"; not judged: {', '.join(skipped)}"
    return Decision(not worse, reason, champion_version, tuple(comparisons), notes)


def judge_first(candidate: PredictionTable, *, policy: PromotionPolicy, samples: int, seed: int) -> Decision:
    """Judge a candidate where there is no champion: against always answering the most frequent class.

    With fewer labelled faces than the policy wants overall it is refused, as it is where there is a champion.
    """
    first = policy.first_model
    known = candidate.labels[candidate.labels >= 0]
    majority = int(np.bincount(known, minlength=2).argmax())
    part = _Slice(
        name="overall",
        rows=np.ones(len(candidate), np.bool_),
        required={"macro_f1": first.macro_f1_gain},
        confidence=first.confidence,
        minimum_faces=policy.overall.minimum_faces,
    )
    guesses = np.full(len(candidate), majority, np.int64)
    comparison = _compare_slice(part, candidate, guesses, samples=samples, seed=seed)[0]
    against = f"always answering {candidate.classes[majority]!r}"
    if comparison.bound is None:
        reason = "no labelled test face: nothing to judge the first model by"
    elif comparison.verdict == "not judged":
        reason = (
            f"no champion yet, and too few labelled test faces to judge a first one by: {comparison.note}; "
            "label more, or choose by hand with `maskfer models promote VERSION --force --reason WHY`"
        )
    elif comparison.verdict == "passes":
        reason = f"first champion: macro-F1 exceeds {against} by at least {comparison.bound:.3f}"
    else:
        reason = (
            f"no champion yet: macro-F1 {comparison.candidate:.3f} against {comparison.champion:.3f} of "
            f"{against}; the certain gain is {comparison.bound:+.3f}, asked is {first.macro_f1_gain:.3f}"
        )
    return Decision(comparison.verdict == "passes", reason, None, (comparison,))


@dataclass(frozen=True, slots=True)
class _Slice:
    name: str
    rows: Bool[np.ndarray, " n"]
    required: Mapping[Metric, float]
    confidence: float
    minimum_faces: int
    class_index: int = 0

    @classmethod
    def of(
        cls,
        name: str,
        rows: Bool[np.ndarray, " n"],
        policy: SlicePolicy | ClassPolicy,
        *,
        class_index: int = 0,
    ) -> Self:
        required: dict[Metric, float] = {metric: -margin for metric, margin in policy.margins.items()}
        return cls(name, rows, required, policy.confidence, policy.minimum_faces, class_index)


def _slices(table: PredictionTable, policy: PromotionPolicy) -> Iterator[_Slice]:
    everyone = np.ones(len(table), np.bool_)
    yield _Slice.of("overall", everyone, policy.overall)
    yield _Slice.of("masked", table.is_masked, policy.masked)
    yield _Slice.of("unmasked", ~table.is_masked, policy.unmasked)
    for orientation in ORIENTATIONS:
        rows = np.array([one == orientation for one in table.orientations], np.bool_)
        yield _Slice.of(f"looks {orientation}", rows, policy.orientation)
    for index, name in enumerate(table.classes):
        yield _Slice.of(f"class {name}", everyone, policy.per_class, class_index=index)


def _compare_slice(
    part: _Slice,
    candidate: PredictionTable,
    champion: Int64[np.ndarray, " n"],
    *,
    samples: int,
    seed: int,
) -> list[Comparison]:
    counts = PairedCounts.count(
        candidate.labels[part.rows],
        candidate=candidate.answers[part.rows],
        champion=champion[part.rows],
        clusters=candidate.clusters[part.rows],
        classes=len(candidate.classes),
    )
    is_class = part.name.startswith("class ")
    n = int((candidate.labels == part.class_index).sum()) if is_class else counts.n
    # Seeded by the slice's name: what one slice draws does not depend on the others.
    rng = np.random.default_rng([seed, *part.name.encode()])
    drawn = counts.resampled(samples=samples, rng=rng)
    whole = counts.candidate.sum(axis=0), counts.champion.sum(axis=0)
    out: list[Comparison] = []
    for metric, required in part.required.items():
        mine, theirs = (_value(one, metric, part.class_index) for one in whole)
        new, old = (_value(one, metric, part.class_index) for one in drawn)
        differences = (new - old)[np.isfinite(new - old)]
        low, bound, high = (
            np.quantile(differences, [0.05, 1 - part.confidence, 0.95]) if len(differences) else [np.nan] * 3
        )
        note = f"n = {n} < {part.minimum_faces}" if n < part.minimum_faces else ""
        verdict: Literal["passes", "worse", "not judged"] = "passes" if bound >= required else "worse"
        known = len(differences) > 0 and np.isfinite(mine - theirs)
        out.append(
            Comparison(
                slice=part.name,
                metric=metric,
                n=n,
                people=len(counts.candidate),
                candidate=float(mine) if known else None,
                champion=float(theirs) if known else None,
                difference=float(mine - theirs) if known else None,
                interval=(float(low), float(high)) if known else None,
                bound=float(bound) if known else None,
                confidence=part.confidence,
                required=required,
                verdict="not judged" if note or not known else verdict,
                note=note,
            )
        )
    return out


def _value(
    counts: Float[np.ndarray, "*b classes classes"], metric: Metric, class_index: int
) -> Float[np.ndarray, "*b"]:
    match metric:
        case "accuracy":
            return metrics.accuracy(counts)
        case "macro_f1":
            return metrics.macro_f1(counts)
        case "f1":
            return metrics.f1(counts)[..., class_index]


def _complaint(worse: list[Comparison], judged: int, champion_version: int) -> str:
    if not worse:
        return ""
    worst = max(worse, key=lambda one: one.required - (one.bound or 0.0))
    return (
        f"worse than champion v{champion_version} beyond the margin in {len(worse)} of {judged} judged "
        f"figures, most in {worst.slice}: {worst.metric} {worst.candidate:.3f} against {worst.champion:.3f}, "
        f"may be lower by {-(worst.bound or 0.0):.3f}, allowed is {-worst.required:.3f}"
    )
