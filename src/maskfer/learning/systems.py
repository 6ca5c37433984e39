"""The systems of the accuracy table: both approaches, the compared methods, other backbones, ablations.

Which each is, and from which paper, is in docs/training.md and in the files of `learning/models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from maskfer.config import ExpressionParams, Params
from maskfer.errors import ParamsError

_WHOLE: Final[Mapping[str, Mapping[str, Any]]] = {
    "expression": {
        "model": "two_branch",
        "backbone": "small",
        "attention": "heatmap",
        "aligned": False,
        "spatial_transformer": False,
        "width_multiplier": 1.0,
        "pretrained": None,
    },
    "mask_classifier": {"spatial_transformer": True},
}
"""What a row of the table is, whatever params.yaml says: approach 2 as it was published, from which each
system differs. The default is the one that is aligned. No row starts from a file of the user's: it would fit
one backbone of the table, and raise that row above the others without a word in its title."""
_PUBLISHED_LANDMARKS: Final[Mapping[str, Any]] = {"width": 32}
"""For the published methods that read landmarks, a network as wide as the features they are read beside. The
default's own is half as wide, for its time a face."""


@dataclass(frozen=True)
class System:
    """A row of the table."""

    name: str
    title: str
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Section of params.yaml -> its keys that differ from the default's."""

    def params(self, base: Params, *, seed: int) -> Params:
        """Return the parameters of one run: `base`, but for what makes the system.

        Raises `ParamsError` naming the system where the two do not go together.
        """
        tree = base.model_dump(mode="json") | {"seed": seed}
        for changes in (_WHOLE, self.overrides):
            for section, pinned in changes.items():
                tree[section] = {**tree[section], **pinned}
        chosen = ExpressionParams.model_construct(**tree["expression"])
        tree["expression"] = {
            name: value for name, value in tree["expression"].items() if name not in chosen.ignored
        }
        try:
            return Params.model_validate(tree)
        except ValidationError as error:
            raise ParamsError(f"system {self.name}: {error.errors()[0]['msg']}") from error


def _expression(name: str, title: str, **changed: Any) -> System:
    published = ExpressionParams.model_construct(**{**_WHOLE["expression"], **changed, "aligned": False})
    landmarks = {"landmarks": _PUBLISHED_LANDMARKS} if published.reads_landmarks else {}
    return System(name, title, {"expression": changed, **landmarks})


_CHANNELS: Final = 64
"""Of the first layers of VGG and ResNet."""


def _narrow(model: str, title: str, *, channels: int, aligned: bool = False) -> System:
    return _expression(
        f"narrow_{model}{'_aligned' if aligned else ''}",
        f"{title}, {channels}/{_CHANNELS} of its channels{', aligned' if aligned else ''}",
        model=model,
        width_multiplier=channels / _CHANNELS,
        aligned=aligned,
    )


METHODS: Final = (
    _expression("default", "the default: approach 2, aligned", aligned=True),
    System("two_branch", "approach 2"),
    _expression("landmark_split", "approach 1", model="landmark_split"),
    _expression("vgg19", "VGG19", model="vgg19"),
    _expression("mobilenet", "MobileNet", model="mobilenet"),
    _expression("deep_emotion", "Deep-Emotion", model="deep_emotion"),
    _expression("pacnn", "pACNN", model="pacnn"),
    _expression("gacnn", "gACNN", model="gacnn"),
    _expression("ran", "RAN", model="ran"),
    _expression("oadn", "OADN", model="oadn"),
)
VARIANTS: Final = (
    _expression("resnet18", "approach 2 on ResNet-18", backbone="resnet18"),
    _expression("vgg19_two_branch", "approach 2 on VGG19", backbone="vgg19"),
    _expression("face_resnet", "the default on layers that know faces", backbone="face_resnet", aligned=True),
    _expression("aligned_no_heatmap", "no heatmap, one branch, aligned", attention="none", aligned=True),
    _expression("no_heatmap", "no heatmap, one branch", attention="none"),
    _expression("only_unmasked", "H_u only, one branch", attention="unmasked"),
    _expression("true_region", "the true region instead of the heatmap", attention="region"),
    _expression(
        "equal_losses", "both branches weigh the same, in losses and answer", masked_branch_weight=0.5
    ),
    _expression("no_consistency", "without the consistency of twins", consistency=0.0),
    _expression("branch_transformer", "a spatial transformer in each branch", spatial_transformer=True),
    System(
        "no_transformer",
        "no spatial transformer in the mask classifier",
        {"mask_classifier": {"spatial_transformer": False}},
    ),
)
NARROW: Final = (
    _narrow("vgg19", "VGG19", channels=8),
    _narrow("pacnn", "pACNN", channels=9),
    _narrow("gacnn", "gACNN", channels=8),
    _narrow("ran", "RAN", channels=10),
    _narrow("oadn", "OADN", channels=13),
    _narrow("gacnn", "gACNN", channels=8, aligned=True),
)
"""The compared methods that take far more work than the default, as narrow as just takes no less than it.

What then differs is how a method looks at a face, and a processor can train them. MobileNet and Deep-Emotion
need no narrowing.
"""
GROUPS: Final = {
    "methods": METHODS,
    "variants": VARIANTS,
    "narrow": NARROW,
    "all": (*METHODS, *VARIANTS, *NARROW),
}
SYSTEMS: Final = {system.name: system for system in GROUPS["all"]}
