"""Crops whose light is known, and answers to them: for drift, where a face's content plays no part."""

from __future__ import annotations

import numpy as np

from maskfer.inference import Predictions


def crops_of_light(count: int, *, seed: int, size: int = 96) -> np.ndarray:
    """Noise around a brightness and with a contrast that differ from crop to crop; uint8 [n, s, s]."""
    rng = np.random.default_rng(seed)
    brightness = rng.normal(130, 20, count)
    contrast = rng.normal(40, 6, count).clip(10)
    noise = rng.standard_normal((count, size, size), np.float32)
    noise *= contrast.astype(np.float32)[:, None, None]
    noise += brightness.astype(np.float32)[:, None, None]
    return noise.clip(0, 255).astype(np.uint8)


def answers_to(crops: np.ndarray) -> Predictions:
    """Answers of a made-up network, drawn from the crops' own pixels."""
    rng = np.random.default_rng(int(crops[:, 0, 0].sum()))
    count = len(crops)
    expression = rng.dirichlet((4.0, 2.0, 1.0), count).astype(np.float32)
    orientation = rng.dirichlet(np.ones(5), count).astype(np.float32)
    masked = rng.beta(1, 2, count).astype(np.float32)
    return Predictions(expression, masked, orientation, np.zeros((count, 12, 12), np.float32))
