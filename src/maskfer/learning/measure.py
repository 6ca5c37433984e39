"""What the heatmap costs and is worth, made in four ways from one release on the same faces."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from onnx.utils import Extractor
from torch import Tensor
from torch.nn import functional

from maskfer.config import HeatmapParams
from maskfer.errors import DatasetError
from maskfer.faces.crop import model_input
from maskfer.inference import INPUT, Analyzer
from maskfer.learning import export, heatmaps, record
from maskfer.learning.captum_occlusion import occlusion_map
from maskfer.learning.faces import UNKNOWN, Faces
from maskfer.learning.models.backbones import fold_norms, placed
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.training import one_thread_each
from maskfer.release import Release

CAPTUM: Final = "captum.attr.Occlusion"
EXACT: Final = "exact map"
ONE_PASS: Final = "one pass"  # noqa: S105 - no password
WHOLE_ANSWER: Final = "one pass, whole answer"
"""The released graph as it serves: the heatmap, and expression, mask and orientation with it."""

_PER_PASS: Final = (24, 72, 144)
"""Covered faces per forward pass that captum is tried with; it is measured with the fastest."""
_TIMED: Final = {CAPTUM: 2, EXACT: 8, ONE_PASS: 64, WHOLE_ANSWER: 32}
"""Faces of one round: about as much time for each way."""
_BATCH: Final = 8
"""Faces in one run of the graph: more did not lower the time per face on one core."""

Crops = UInt8[Tensor, "n s s"]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the heatmap."""

    ms_per_face: float
    """Median over the rounds."""
    times_faster: float
    """Than captum; median over the rounds of the ratio within a round."""
    correlation: float
    """With the exact map, over the cells of masked and unmasked faces."""
    iou: float
    """Of H_m > 1/2 with the true region, mean over the masked faces."""
    heat_unmasked: float
    """Share of an unmasked face that H_m > 1/2 covers."""


@dataclass(frozen=True, slots=True)
class HeatmapComparison:
    """All ways, measured in one run on one thread."""

    masked_faces: int
    """Each was there with its unmasked twin."""
    rounds: int
    patch: int
    stride: int
    captum_per_pass: int
    """Covered faces in one of captum's forward passes."""
    ways: dict[str, Way]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` writes."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Masked faces and their unmasked twins."""

    masked: Crops
    unmasked: Crops
    regions: Bool[Tensor, "n s s"]

    @property
    def images(self) -> Crops:
        return torch.cat([self.masked, self.unmasked])


def compare_heatmaps(release: Release, faces: Faces, *, count: int, rounds: int) -> HeatmapComparison:
    """Compare captum's map, ours and the released head on `count` drawn twins and their unmasked faces.

    Raises `DatasetError` where no face has a drawn twin, and what `export.restore` and
    `captum_occlusion.occlusion_map` raise.
    """
    section = export.params_of(release).heatmap
    pairs = _pairs(faces, count)
    with one_thread_each():
        ways = _Ways(release, section, pairs)
        maps = ways.maps()
        seconds = _timed(ways, rounds)
    return HeatmapComparison(
        masked_faces=len(pairs.masked),
        rounds=rounds,
        patch=section.patch,
        stride=section.stride,
        captum_per_pass=ways.per_pass,
        ways={
            name: Way(
                ms_per_face=1e3 * statistics.median(seconds[name]),
                times_faster=statistics.median(
                    base / own for base, own in zip(seconds[CAPTUM], seconds[name], strict=True)
                ),
                correlation=heatmaps.correlation(_on_raster(found, maps[EXACT]), maps[EXACT]),
                iou=heatmaps.region_iou(found[: len(pairs.masked)], pairs.regions),
                heat_unmasked=heatmaps.covered_share(found[len(pairs.masked) :], pairs.masked.shape[-1]),
            )
            for name, found in maps.items()
        },
    )


class _Ways:
    """The network of one release, ready to be asked for heatmaps in every way."""

    def __init__(self, release: Release, section: HeatmapParams, pairs: _Pairs) -> None:
        self.section, self.pairs = section, pairs
        # Folded and laid out as our own exact map wants it: a fair opponent gets the same network.
        self.network: MaskClassifier = placed(
            fold_norms(export.restore(release).mask_classifier), torch.device("cpu")
        ).eval()
        self.fast = heatmaps.FastSensitivity(
            self.network, side=release.crop_size, patch=section.patch, stride=section.stride
        )
        self.analyzer = Analyzer(release, threads=1)
        self.head = _heatmap_session(release)
        self.per_pass = min(_PER_PASS, key=self._captum_seconds)

    @property
    def makers(self) -> dict[str, Callable[[Crops], Float[Tensor, "n g g"]]]:
        """Faces to S_m for the ways that cover patches, to H_m for those of one pass."""
        return {
            CAPTUM: partial(self._captum, per_pass=self.per_pass),
            EXACT: lambda crops: self.fast(crops.unsqueeze(1).float()),
            ONE_PASS: partial(_in_batches, self._head),
            WHOLE_ANSWER: partial(_in_batches, lambda batch: self.analyzer.predict(batch).heatmap),
        }

    def maps(self) -> dict[str, Float[Tensor, "n g g"]]:
        """Return H_m of all faces by every way; captum's at the resolution of the face."""
        images = self.pairs.images
        chunks = [(name, chunk) for name in _TIMED for chunk in torch.split(images, 8)]
        made: dict[str, list[Tensor]] = {name: [] for name in _TIMED}
        makers = self.makers
        for name, chunk in record.shown(chunks, title="heatmaps", total=len(chunks)):
            made[name].append(makers[name](chunk))
        maps = {name: torch.cat(parts) for name, parts in made.items()}
        return maps | {name: self._attention(maps[name]) for name in (CAPTUM, EXACT)}

    def _attention(self, drops: Float[Tensor, "n g g"]) -> Float[Tensor, "n g g"]:
        is_masked = torch.arange(len(drops)) < len(self.pairs.masked)
        floor = heatmaps.sensitivity_floor(drops, is_masked)
        return heatmaps.attention(drops, center=self.section.center, gain=self.section.gain, floor=floor)

    def _head(self, batch: UInt8[np.ndarray, "b s s"]) -> Float32[np.ndarray, "b g g"]:
        heatmap: Float32[np.ndarray, "b g g"] = self.head.run(None, {INPUT: model_input(batch)})[0]
        return heatmap

    def _captum(self, crops: Crops, *, per_pass: int) -> Float[Tensor, "n s s"]:
        def mask_logits(normalised: Float[Tensor, "b 1 s s"]) -> Float[Tensor, " b"]:
            return self.network.mask_logits(self.network.block1(normalised))

        patch, stride = self.section.patch, self.section.stride
        # Face by face: its patches fill a pass, and a second face only makes it leave the caches.
        return torch.cat(
            [
                occlusion_map(
                    mask_logits,
                    self.network.normalise(face.view(1, 1, *face.shape).float()),
                    patch=patch,
                    stride=stride,
                    per_pass=per_pass,
                )
                for face in crops
            ]
        )

    def _captum_seconds(self, per_pass: int) -> float:
        return min(
            _seconds(partial(self._captum, self.pairs.masked[:1], per_pass=per_pass)) for _ in range(3)
        )


def _pairs(faces: Faces, count: int) -> _Pairs:
    is_drawn = (faces.twins != UNKNOWN) & faces.regions.flatten(1).any(dim=1)
    drawn = torch.arange(len(faces))[is_drawn]
    if len(drawn) == 0:
        raise DatasetError(
            "no face with a drawn mask and its unmasked twin to compare on; build the dataset without "
            "--no-masks, from unmasked photographs"
        )
    order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(0))
    rows = drawn[order[:count]]
    return _Pairs(faces.images[rows], faces.images[faces.twins[rows]], faces.regions[rows])


def _timed(ways: _Ways, rounds: int) -> dict[str, list[float]]:
    # The ways take turns, so that whatever else the machine does falls on all of them.
    seconds: dict[str, list[float]] = {name: [] for name in _TIMED}
    images, makers = ways.pairs.images, ways.makers
    for turn in record.shown(range(rounds), title="rounds", total=rounds):
        for name, count in _TIMED.items():
            crops = images[(torch.arange(count) + turn * count) % len(images)]
            seconds[name].append(_seconds(partial(makers[name], crops)) / count)
    return seconds


def _in_batches(
    answer: Callable[[UInt8[np.ndarray, "b s s"]], Float32[np.ndarray, "b g g"]], crops: Crops
) -> Float[Tensor, "n g g"]:
    return torch.from_numpy(np.concatenate([answer(batch.numpy()) for batch in torch.split(crops, _BATCH)]))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _heatmap_session(release: Release) -> ort.InferenceSession:
    # ONNX Runtime computes all of a graph, whatever output is asked for: cut out what leads to the heatmap.
    part = Extractor(onnx.load(release.onnx)).extract_model([INPUT], ["heatmap"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _on_raster(maps: Float[Tensor, "n g g"], raster: Float[Tensor, "n h h"]) -> Float[Tensor, "n h h"]:
    return functional.adaptive_avg_pool2d(maps.unsqueeze(1), raster.shape[-1]).squeeze(1)
