"""Whether a candidate may replace the champion: a policy, the comparison it asks for, and the verdict."""

from maskfer.promotion.decision import Comparison, Decision, compare, judge_first
from maskfer.promotion.policy import PromotionPolicy

__all__ = ["Comparison", "Decision", "PromotionPolicy", "compare", "judge_first"]
