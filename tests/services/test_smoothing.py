from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.smoothing import HOLD_S, MARGIN, TIME_CONSTANT_S, FaceSmoother, Shown, SteadyLabel

_RATES = st.floats(1.0, 60.0)


def _update(
    smoother: FaceSmoother, at_s: float, shares: list[float], *, masked: float = 0.5, direction: int = 2
) -> Shown:
    return smoother.update(
        at_s,
        expression=np.array(shares, np.float32),
        masked_probability=masked,
        orientation=np.eye(5, dtype=np.float32)[direction],
        heatmap=np.full((2, 2), masked, np.float32),
    )


@given(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3), st.floats(0.0, 1.0), st.integers(0, 4))
def test_the_first_frame_is_shown_as_it_is(weights: list[float], masked: float, direction: int) -> None:
    shares = np.array(weights, np.float32) / np.float32(sum(weights))
    shown = _update(FaceSmoother(), 3.0, shares.tolist(), masked=masked, direction=direction)
    np.testing.assert_array_equal(shown.expression, shares.astype(np.float64))
    assert shown.label == int(np.argmax(shares))
    assert shown.masked == (masked >= 0.5)
    assert shown.orientation == direction


@given(_RATES)
def test_input_that_alternates_shows_one_constant_label(fps: float) -> None:
    smoother = FaceSmoother()
    shown = [
        _update(
            smoother,
            i / fps,
            [0.95, 0.04, 0.01] if i % 2 else [0.04, 0.95, 0.01],
            masked=0.9 if i % 2 else 0.1,
            direction=i % 2,
        )
        for i in range(120)
    ]
    assert len({(one.label, one.masked, one.orientation) for one in shown}) == 1


@given(st.integers(0, 2**32 - 1), _RATES)
def test_noise_within_the_margin_changes_no_label(seed: int, fps: float) -> None:
    noise = np.random.default_rng(seed).uniform(-0.49 * MARGIN, 0.49 * MARGIN, 200)
    frames = [([0.5 + n, 0.5 - n, 0.0], 0.5 + n) for n in noise]
    smoother = FaceSmoother()
    shown = [_update(smoother, i / fps, shares, masked=masked) for i, (shares, masked) in enumerate(frames)]
    assert len({(one.label, one.masked) for one in shown}) == 1


@given(_RATES)
def test_a_single_odd_frame_changes_no_label(fps: float) -> None:
    label = SteadyLabel()
    odd = [np.array([0.0, 1.0]) if i == 5 else np.array([1.0, 0.0]) for i in range(12)]
    assert {label.update(i / fps, shares) for i, shares in enumerate(odd)} == {0}


@given(st.floats(4.0, 60.0))
def test_a_face_that_changes_is_shown_within_a_second_and_stays(fps: float) -> None:
    smoother = FaceSmoother()
    _update(smoother, 0.0, [0.9, 0.05, 0.05], masked=0.05, direction=0)
    after = [
        _update(smoother, i / fps, [0.05, 0.05, 0.9], masked=0.95, direction=3)
        for i in range(1, int(3 * fps))
    ]
    settled = [(one.label, one.masked, one.orientation) for one in after[int(fps) :]]
    assert set(settled) == {(2, True, 3)}
    assert after[-1].expression == pytest.approx([0.05, 0.05, 0.9], abs=2e-3)
    assert after[-1].masked_probability == pytest.approx(0.95, abs=2e-3)
    assert after[-1].heatmap == pytest.approx(0.95, abs=2e-3)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_what_is_shown_after_a_time_does_not_depend_on_the_frame_rate(gaps: list[int]) -> None:
    ends_s = np.cumsum(gaps) / 60.0
    irregular, once = FaceSmoother(), FaceSmoother()
    for smoother in (irregular, once):
        _update(smoother, 0.0, [1.0, 0.0, 0.0], masked=0.0)
    for at_s in ends_s:
        many = _update(irregular, float(at_s), [0.0, 1.0, 0.0], masked=1.0)
    one = _update(once, float(ends_s[-1]), [0.0, 1.0, 0.0], masked=1.0)
    assert many.expression == pytest.approx(one.expression)
    assert many.masked_probability == pytest.approx(one.masked_probability)
    assert many.masked_probability == pytest.approx(-np.expm1(-ends_s[-1] / TIME_CONSTANT_S))


@given(st.lists(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3), min_size=1, max_size=30), _RATES)
def test_smoothed_probabilities_add_up_to_one(rows: list[list[float]], fps: float) -> None:
    smoother = FaceSmoother()
    for i, row in enumerate(rows):
        shown = _update(smoother, i / fps, (np.array(row) / sum(row)).tolist())
        assert shown.expression.sum() == pytest.approx(1.0, abs=1e-6)
        assert (shown.expression >= 0).all()


def test_a_heatmap_of_another_grid_begins_anew_and_the_rest_goes_on() -> None:
    smoother = FaceSmoother()
    _update(smoother, 0.0, [1.0, 0.0, 0.0], masked=0.9)
    before = _update(smoother, 0.1, [0.0, 1.0, 0.0], masked=0.1)
    finer = np.linspace(0.0, 1.0, 16, dtype=np.float32).reshape(4, 4)
    first, second = (
        smoother.update(
            at_s,
            expression=np.array([0.0, 1.0, 0.0], np.float32),
            masked_probability=0.1,
            orientation=np.eye(5, dtype=np.float32)[2],
            heatmap=heatmap,
        )
        for at_s, heatmap in ((0.2, finer), (0.3, np.zeros_like(finer)))
    )
    np.testing.assert_array_equal(first.heatmap, finer)
    assert 0.0 < second.heatmap.max() < 1.0
    assert before.expression[0] > first.expression[0] > second.expression[0] > 0.0


def test_a_label_that_others_beat_in_turns_is_given_up() -> None:
    label = SteadyLabel()
    label.update(0.0, np.array([0.8, 0.1, 0.1]))
    beaten = [np.array([0.1, 0.5, 0.4]), np.array([0.1, 0.4, 0.5])]
    shown = [label.update(0.05 * i, beaten[i % 2]) for i in range(1, 3 + int(HOLD_S / 0.05) + 1)]
    assert shown[0] == 0
    assert shown[-1] != 0
