"""The policy's verdicts: what is worse is refused, what is as good is not, what is small is named."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from maskfer.errors import DatasetError, ParamsError
from maskfer.evaluation import PredictionTable
from maskfer.labels import EXPRESSIONS, ORIENTATIONS
from maskfer.promotion import Decision, PromotionPolicy, compare, judge_first
from maskfer.promotion.report import decision_table, to_markdown

_ROOT = Path(__file__).resolve().parents[1]
PEOPLE, PER_PERSON = 400, 10


@functools.cache
def answered(
    *,
    wrong: float = 0.1,
    seed: int = 0,
    like: float = 0.0,
    worse_where: str | None = None,
    worse_by: float = 0.0,
) -> PredictionTable:
    """Answers to 4,000 faces, wrong at random, and more often where `worse_where` says.

    For a share `like` of the faces the draw is everybody's: models fail on the same hard faces.
    """
    rng = np.random.default_rng(99)  # the same faces for everybody
    n = PEOPLE * PER_PERSON
    labels = rng.choice(3, n, p=[0.45, 0.5, 0.05])
    turns = rng.choice(5, n, p=[0.02, 0.2, 0.5, 0.2, 0.08])
    masked = np.arange(n) % 2 == 1
    rng = np.random.default_rng([seed, 1])
    share = np.full(n, wrong)
    match worse_where:
        case "masked":
            share[masked] += worse_by
        case "down":
            share[turns == 4] += worse_by
        case "up":
            share[turns == 0] += worse_by
        case "negative":
            share[labels == 2] += worse_by
    draw = np.where(rng.random(n) < like, np.random.default_rng([0, 2]).random(n), rng.random(n))
    answers = np.where(draw < share, (labels + 1) % 3, labels)
    return PredictionTable(
        classes=EXPRESSIONS,
        face_ids=tuple(f"{index:016x}" for index in range(n)),
        people=tuple(f"person {index // PER_PERSON}" for index in range(n)),
        is_masked=masked,
        orientations=tuple(str(ORIENTATIONS[turn]) for turn in turns),
        labels=labels,
        probabilities=np.eye(3, dtype=np.float32)[answers],
        masked_probability=masked.astype(np.float32),
        answered_orientations=tuple(str(ORIENTATIONS[turn]) for turn in turns),
        heatmap_iou=np.full(n, np.nan, np.float32),
    )


def first_faces(count: int) -> PredictionTable:
    """The right answers to the first `count` of those faces; the others have no label."""
    table = answered(wrong=0.0)
    return dataclasses.replace(table, labels=np.where(np.arange(len(table)) < count, table.labels, -1))


def decide(candidate: PredictionTable, champion: PredictionTable) -> Decision:
    return compare(candidate, champion, champion_version=3, policy=PromotionPolicy(), samples=300, seed=7)


def verdicts(decision: Decision) -> dict[str, str]:
    return {f"{one.slice} {one.metric}": one.verdict for one in decision.comparisons}


def test_the_policy_file_is_the_default_policy() -> None:
    assert PromotionPolicy.load(_ROOT / "mlflow" / "promotion-policy.yaml") == PromotionPolicy()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("overal: {}", "overal"),
        ("overall: {margins: {accuracy: 2}, confidence: 0.9, minimum_faces: 1}", "accuracy"),
        ("overall: {margins: {speed: 0.1}, confidence: 0.9, minimum_faces: 1}", "speed"),
        (
            "overall: {margins: {f1: 0.1}, confidence: 0.9, minimum_faces: 1}",
            r"overall\.margins\.f1.*should be 'accuracy' or 'macro_f1' \(got 'f1'\)",
        ),
        (
            "orientation: {margins: {f1: 0.1}, confidence: 0.9, minimum_faces: 1}",
            r"orientation\.margins\.f1.*should be 'accuracy' or 'macro_f1'",
        ),
        (
            "per_class: {margins: {accuracy: 0.1}, confidence: 0.9, minimum_faces: 1}",
            r"per_class\.margins\.accuracy.*should be 'f1' \(got 'accuracy'\)",
        ),
        ("overall: [", "not valid YAML"),
        ("first_model: {confidence: 0.2}", "confidence"),
    ],
)
def test_a_wrong_policy_is_one_line_that_names_the_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=says) as caught:
        PromotionPolicy.load(path)
    assert "\n" not in str(caught.value)


def test_a_policy_that_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"cannot be read \(Is a directory\); give --policy a YAML file"):
        PromotionPolicy.load(tmp_path)


def test_a_missing_policy_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such promotion policy"):
        PromotionPolicy.load(tmp_path / "absent.yaml")


def test_the_same_answers_are_promoted_and_every_slice_is_in_the_decision() -> None:
    decision = decide(answered(), answered())
    assert decision.promote
    assert decision.champion == 3
    expected = ["overall", "masked", "unmasked", *(f"looks {name}" for name in ORIENTATIONS)]
    expected += [f"class {name}" for name in EXPRESSIONS]
    assert list(dict.fromkeys(one.slice for one in decision.comparisons)) == expected


def test_other_models_that_are_as_good_are_promoted_as_a_rule() -> None:
    champion = answered(like=0.6)
    promoted = [decide(answered(seed=seed, like=0.6), champion).promote for seed in range(1, 7)]
    assert sum(promoted) >= 5


@pytest.mark.parametrize(
    ("where", "by", "figure"),
    [
        ("masked", 0.08, "masked accuracy"),
        ("down", 0.15, "looks down accuracy"),
        ("negative", 0.4, "class negative f1"),
    ],
)
def test_a_model_worse_in_one_slice_is_refused_and_the_slice_is_named(
    where: str, by: float, figure: str
) -> None:
    decision = decide(answered(seed=1, like=0.6, worse_where=where, worse_by=by), answered(like=0.6))
    assert not decision.promote
    assert verdicts(decision)[figure] == "worse"
    assert figure.rsplit(" ", 1)[0] in decision.reason
    assert verdicts(decision)["unmasked accuracy"] == "passes"


def test_a_model_better_everywhere_is_promoted() -> None:
    assert decide(answered(seed=1, wrong=0.05), answered(wrong=0.2)).promote


def test_a_slice_too_small_to_judge_is_named_with_its_count() -> None:
    decision = decide(answered(seed=1, like=0.6, worse_where="up", worse_by=0.5), answered(like=0.6))
    small = next(one for one in decision.comparisons if one.slice == "looks up")
    assert small.verdict == "not judged"
    assert small.n < 100
    assert f"looks up (n = {small.n} < 100)" in decision.reason
    assert small.difference is not None


def test_a_refusal_counts_the_figures_that_were_judged() -> None:
    decision = decide(answered(seed=1, like=0.6, worse_where="masked", worse_by=0.08), answered(like=0.6))
    told = list(verdicts(decision).values())
    assert "not judged" in told
    judged = len(told) - told.count("not judged")
    assert f"in {told.count('worse')} of {judged} judged figures, most in" in decision.reason


def test_a_test_set_too_small_for_any_judgement_promotes_nobody() -> None:
    policy = PromotionPolicy.model_validate(
        {"overall": {"margins": {"accuracy": 0.1}, "confidence": 0.9, "minimum_faces": 5000}}
    )
    decision = compare(answered(), answered(), champion_version=1, policy=policy, samples=100, seed=0)
    assert not decision.promote
    assert "n = 4000 < 5000" in decision.reason


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert decide(answered(seed=1), answered()) == decide(answered(seed=1), answered())


def test_answers_to_other_faces_are_not_compared() -> None:
    one = answered()
    other = dataclasses.replace(one, face_ids=tuple(reversed(one.face_ids)))
    with pytest.raises(DatasetError, match="champion v3"):
        decide(one, other)


def test_a_first_model_has_to_beat_the_most_frequent_class() -> None:
    policy = PromotionPolicy()
    good = judge_first(answered(), policy=policy, samples=200, seed=0)
    assert good.promote
    assert good.champion is None
    guess = judge_first(answered(wrong=0.95), policy=policy, samples=200, seed=0)
    assert not guess.promote
    assert "asked is 0.050" in guess.reason


def test_a_first_model_without_a_labelled_face_is_not_promoted() -> None:
    table = answered()
    unlabelled = dataclasses.replace(table, labels=np.full(len(table), -1))
    decision = judge_first(unlabelled, policy=PromotionPolicy(), samples=100, seed=0)
    assert not decision.promote
    assert "no labelled test face" in decision.reason


def test_a_first_model_with_too_few_test_faces_is_not_promoted_however_right_it_is() -> None:
    decision = judge_first(first_faces(49), policy=PromotionPolicy(), samples=100, seed=0)
    assert not decision.promote
    assert "n = 49 < 50" in decision.reason
    assert "maskfer models promote VERSION --force" in decision.reason
    assert judge_first(first_faces(50), policy=PromotionPolicy(), samples=100, seed=0).promote


def test_the_policy_says_how_few_test_faces_judge_a_first_model() -> None:
    overall = {"margins": {"accuracy": 0.02}, "confidence": 0.9, "minimum_faces": 20}
    policy = PromotionPolicy.model_validate({"overall": overall})
    assert judge_first(first_faces(20), policy=policy, samples=100, seed=0).promote
    assert not judge_first(first_faces(19), policy=policy, samples=100, seed=0).promote


def test_a_decision_is_plain_json_and_a_page_with_every_number() -> None:
    decision = decide(
        answered(seed=1, like=0.6, worse_where="masked", worse_by=0.1), answered(like=0.6)
    ).to_json()
    assert json.loads(json.dumps(decision)) == json.loads(json.dumps(decision, allow_nan=False))
    page = to_markdown(decision, of="maskfer@v4")
    assert page.startswith("# maskfer@v4: not promoted")
    assert page.count("\n| ") == 1 + len(decision["comparisons"])


def test_the_table_shows_a_reason_as_it_was_written_on_any_console() -> None:
    reason = "a person rolled back from this release: see [/wiki/12] :warning:"
    decision = dataclasses.replace(decide(answered(), answered()), reason=reason).to_json()
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(decision_table(decision))
    assert f"promoted: {reason}" in console.export_text()


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    decision = decide(
        answered(seed=1, like=0.6, worse_where="masked", worse_by=0.1), answered(like=0.6)
    ).to_json()
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(decision_table(decision))
    row = next(line for line in console.export_text().splitlines() if "looks center" in line)
    assert "accuracy" in row
    assert row.split()[-1] in {"passes", "worse"}
