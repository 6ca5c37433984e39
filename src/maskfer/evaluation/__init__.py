"""Judges a release on a faces table, by the very graph that is served."""

from maskfer.evaluation.judge import Evaluation, evaluate
from maskfer.evaluation.predictions import PredictionTable

__all__ = ["Evaluation", "PredictionTable", "evaluate"]
