"""dlib's face recognition network: read from dlib's own file, and cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from maskfer.errors import TrainingError
from maskfer.faces import packaged
from maskfer.learning.models.backbones import Backbone, FaceResNet, FaceTail, Normalise, load_pretrained
from maskfer.learning.models.backbones.dlib_file import _tensor, read_dlib

SIDE = 150
"""Pixels of the faces that dlib recognises."""


@pytest.fixture(scope="module")
def published() -> Path:
    path = packaged.packaged_weights(packaged.RECOGNITION)
    assert path is not None, "face-recognition-models is not installed"
    return path


def _as_dlib(state: dict[str, Tensor], faces: Tensor) -> Tensor:
    """The last features of dlib's whole network, its borders not padded where it shrinks."""

    def convolved(maps: Tensor, name: str, **how: int) -> Tensor:
        return functional.conv2d(maps, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    maps = functional.relu(convolved(Normalise()(faces), "stem", stride=2))
    maps = functional.max_pool2d(maps, 3, stride=2)
    for block in range(14):
        shrinks = block in (3, 7, 10, 13)
        inner = convolved(maps, f"blocks.{block}.first", stride=2) if shrinks else None
        inner = convolved(maps, f"blocks.{block}.first", padding=1) if inner is None else inner
        inner = convolved(functional.relu(inner), f"blocks.{block}.second", padding=1)
        shortcut = functional.avg_pool2d(maps, 2) if shrinks else maps
        # dlib adds what is missing as zeros, in channels and at the border.
        size = [max(a, b) for a, b in zip(inner.shape, shortcut.shape, strict=True)]
        maps = functional.relu(_filled(inner, size) + _filled(shortcut, size))
    return maps.mean(dim=(2, 3))


def _filled(maps: Tensor, size: list[int]) -> Tensor:
    return functional.pad(maps, [n for k in (3, 2, 1) for n in (0, size[k] - maps.shape[k])])


def test_the_file_holds_what_dlib_computes_with(published: Path) -> None:
    import dlib

    grey = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    recognises = dlib.face_recognition_model_v1(str(published))
    wanted = np.array(recognises.compute_face_descriptor(np.dstack([grey] * 3)))

    content = published.read_bytes()
    # The descriptor's own matrix is not read otherwise: after its name two numbers of two and three bytes.
    matrix, _ = _tensor(content, content.rfind(b"fc_2") + len(b"fc_2") + 5)
    features = _as_dlib(read_dlib(published), torch.from_numpy(grey).float()[None, None])

    np.testing.assert_allclose(features[0].numpy() @ matrix.reshape(256, 128), wanted, atol=1e-5)


@pytest.mark.parametrize(("side", "cells"), [(80, 10), (96, 12), (100, 13)])
def test_f_has_a_stride_of_eight_and_what_follows_one_of_sixteen(side: int, cells: int) -> None:
    features = FaceResNet()(torch.zeros(2, 1, side, side))

    assert features.shape == (2, FaceResNet().channels, cells, cells)
    assert FaceTail()(features).shape == (2, FaceTail().channels, (cells + 1) // 2, (cells + 1) // 2)


@pytest.mark.parametrize(
    ("part", "some"), [(FaceResNet, "blocks.6.second.bias"), (FaceTail, "blocks.8.first.weight")]
)
def test_each_part_takes_its_weights_from_the_file(part: type[Backbone], some: str, published: Path) -> None:
    network = part()

    load_pretrained(network, published)

    given = read_dlib(published)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, given[name])
    assert some in network.state_dict()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda content: content[:20_000], "buffer"),
        (lambda _: b"no network", "0 convolutions, expected 29"),
        (lambda _: b"con_4" + b"\x01\x02" + 4 * (b"\x08" + 8 * b"\xff"), "too large"),
        (
            lambda _: packaged.packaged_weights("mmod_human_face_detector.dat").read_bytes(),
            "7 convolutions, expected 29",
        ),
    ],
    ids=["half of it", "something else", "more than any file holds", "another network of dlib's"],
)
def test_what_is_not_that_network_is_refused_with_one_line(
    make: Callable[[bytes], bytes], says: str, published: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights.dat"
    path.write_bytes(make(published.read_bytes()))

    with pytest.raises(TrainingError, match=f"not dlib's face recognition network .*{says}") as caught:
        load_pretrained(FaceResNet(), path)

    assert "\n" not in str(caught.value)
