"""Figures against what is worked out by hand, and the bootstrap against what it has to satisfy."""

from __future__ import annotations

import numpy as np
import pytest

from maskfer import metrics
from maskfer.metrics import PairedCounts

CLASSES = ("positive", "neutral", "negative")


def certain(answers: list[int], *, confidence: float = 0.8) -> np.ndarray:
    rest = (1 - confidence) / 2
    return np.where(np.arange(3) == np.array(answers)[:, None], confidence, rest).astype(np.float32)


def test_figures_are_those_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, -1])
    found = metrics.figures(labels, certain([0, 0, 1, 1, 1, 1, 2]), classes=CLASSES, bins=10)
    assert found.n == 6
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [0, 1, 0]]
    assert found.per_class["positive"].recall == pytest.approx(2 / 3)
    assert found.per_class["positive"].precision == 1
    assert found.per_class["positive"].f1 == pytest.approx(0.8)
    assert found.per_class["neutral"].f1 == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert found.per_class["negative"].f1 == 0
    assert found.per_class["negative"].precision is None
    assert found.macro_f1 == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    assert found.ece == pytest.approx(0.8 - 4 / 6)
    assert found.absent == []


def test_a_class_without_a_face_is_named_and_left_out_of_macro_f1() -> None:
    found = metrics.figures(np.array([0, 1]), certain([0, 1]), classes=CLASSES, bins=10)
    assert found.absent == ["negative"]
    assert found.macro_f1 == 1
    assert found.per_class["negative"].f1 is None


def test_no_labelled_face_gives_no_figure_and_no_division_by_zero() -> None:
    found = metrics.figures(np.array([-1, -1]), certain([0, 1]), classes=CLASSES, bins=10).to_json()
    assert found["n"] == 0
    assert found["accuracy"] is None
    assert found["macro_f1"] is None
    assert found["ece"] is None


def test_confidence_that_equals_accuracy_has_no_calibration_error() -> None:
    labels = np.array([0] * 8 + [1, 2])
    assert metrics.expected_calibration_error(labels, certain([0] * 10), bins=7) == pytest.approx(0, abs=1e-6)
    sure = certain([0] * 10, confidence=1.0)
    assert metrics.expected_calibration_error(labels, sure, bins=7) == pytest.approx(0.2)


def test_iou_of_halves_that_share_a_quarter() -> None:
    left = np.zeros((3, 4, 4), np.bool_)
    top = left.copy()
    left[:2, :, :2] = True
    top[0, :2] = True
    found = metrics.intersection_over_union(left, top)
    assert found[0] == pytest.approx(4 / 12)
    assert found[1] == 0
    assert np.isnan(found[2])


def paired(
    candidate: np.ndarray, champion: np.ndarray, labels: np.ndarray, clusters: np.ndarray
) -> PairedCounts:
    return PairedCounts.count(labels, candidate=candidate, champion=champion, clusters=clusters, classes=3)


def difference_width(counts: PairedCounts) -> float:
    new, old = counts.resampled(samples=2000, rng=np.random.default_rng(0))
    low, high = np.quantile(metrics.accuracy(new) - metrics.accuracy(old), [0.05, 0.95])
    return float(high - low)


def test_the_same_answers_differ_in_no_resample() -> None:
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 3, 90), rng.integers(0, 3, 90)
    counts = paired(answers, answers, labels, np.arange(90) // 3)
    new, old = counts.resampled(samples=200, rng=rng)
    np.testing.assert_array_equal(new, old)


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        labels = np.zeros(150, np.int64)
        champion = (rng.random(150) > 0.8).astype(np.int64)
        candidate = (rng.random(150) > 0.7).astype(np.int64)
        counts = paired(candidate, champion, labels, np.arange(150))
        new, old = counts.resampled(samples=300, rng=rng)
        low, high = np.quantile(metrics.accuracy(new) - metrics.accuracy(old), [0.05, 0.95])
        held += low <= -0.1 <= high
    assert 0.83 <= held / 200 <= 0.97


def test_twenty_copies_of_a_persons_face_make_nothing_more_certain() -> None:
    rng = np.random.default_rng(2)
    labels, champion = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    candidate = np.where(rng.random(40) < 0.5, labels, champion)
    people = np.arange(40)
    once = difference_width(paired(candidate, champion, labels, people))
    copies = (np.repeat(one, 20) for one in (candidate, champion, labels, people))
    assert difference_width(paired(*copies)) == pytest.approx(once, rel=0.1)
    as_if_strangers = [np.repeat(one, 20) for one in (candidate, champion, labels)]
    assert difference_width(paired(*as_if_strangers, np.arange(800))) < 0.4 * once


def test_nobody_to_resample_gives_no_figure() -> None:
    empty = np.zeros(0, np.int64)
    counts = paired(empty, empty, empty, empty)
    new, _ = counts.resampled(samples=3, rng=np.random.default_rng(0))
    assert counts.n == 0
    assert np.isnan(metrics.accuracy(new)).all()
    assert np.isnan(metrics.macro_f1(new)).all()
