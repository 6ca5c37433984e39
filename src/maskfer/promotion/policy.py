"""What a candidate has to show before it may replace the champion: `mlflow/promotion-policy.yaml`, typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskfer.errors import ParamsError

WholeMetric = Literal["accuracy", "macro_f1"]
"""Figures of all classes of a slice."""
ClassMetric = Literal["f1"]
"""Figures of one class."""
Metric = Literal[WholeMetric, ClassMetric]
Margin = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SlicePolicy(_Strict):
    """How one kind of slice is judged."""

    margins: dict[WholeMetric, Margin] = Field(min_length=1)
    """Per figure: by how much the candidate may be worse."""
    confidence: float = Field(ge=0.5, lt=1.0)
    """One-sided confidence that it is not worse by more; 0.5 asks only that it does not look worse."""
    minimum_faces: int = Field(ge=1)
    """A slice with fewer labelled faces is named, not judged."""


class ClassPolicy(_Strict):
    """How each class is judged."""

    margins: dict[ClassMetric, Margin] = Field(min_length=1)
    """Per figure: by how much the candidate may be worse."""
    confidence: float = Field(ge=0.5, lt=1.0)
    """As for a slice."""
    minimum_faces: int = Field(ge=1)
    """A class with fewer labelled faces is named, not judged."""


class FirstModelPolicy(_Strict):
    """What a candidate has to show where there is no champion."""

    macro_f1_gain: Margin = 0.05
    """By how much macro-F1 has to exceed that of always answering the most frequent class."""
    confidence: float = Field(0.95, ge=0.5, lt=1.0)


class PromotionPolicy(_Strict):
    """`mlflow/promotion-policy.yaml`."""

    format_version: Literal[1] = 1
    overall: SlicePolicy = SlicePolicy(
        margins={"accuracy": 0.02, "macro_f1": 0.04}, confidence=0.9, minimum_faces=50
    )
    """All test faces; a set too small for this is no ground for a promotion, of a first model neither."""
    masked: SlicePolicy = SlicePolicy(
        margins={"accuracy": 0.03, "macro_f1": 0.05}, confidence=0.9, minimum_faces=100
    )
    unmasked: SlicePolicy = SlicePolicy(
        margins={"accuracy": 0.03, "macro_f1": 0.05}, confidence=0.9, minimum_faces=100
    )
    orientation: SlicePolicy = SlicePolicy(
        margins={"accuracy": 0.05, "macro_f1": 0.10}, confidence=0.7, minimum_faces=100
    )
    """Each of the five."""
    per_class: ClassPolicy = ClassPolicy(margins={"f1": 0.10}, confidence=0.7, minimum_faces=50)
    """Each class, over all test faces."""
    first_model: FirstModelPolicy = FirstModelPolicy()

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read `path`; `None` gives the defaults, which are those of `mlflow/promotion-policy.yaml`.

        Raises `ParamsError` naming the file, the key, the value and what was expected.
        """
        if path is None:
            return cls()
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        except FileNotFoundError as error:
            raise ParamsError(
                f"{path}: no such promotion policy; see mlflow/promotion-policy.yaml"
            ) from error
        except OSError as error:
            raise ParamsError(
                f"{path}: cannot be read ({error.strerror}); give --policy a YAML file like "
                "mlflow/promotion-policy.yaml"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise ParamsError(f"{path}: {where}: {problem['msg']} (got {problem['input']!r})") from error
