"""Fill a backbone with published weights, or with our own, from a file that the user has."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from maskfer.errors import TrainingError
from maskfer.learning.models.backbones.base import Backbone
from maskfer.learning.models.backbones.dlib_file import read_dlib

_COUNTER = "num_batches_tracked"
"""Counts training steps; nothing reads it, and old files lack it."""
_UNREADABLE: Final = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    # torch follows the codes of a pickle without looking whether there is one: any text may be a few of them.
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    struct.error,
)
"""What the readers make of a file that is damaged or none of theirs."""


def load_pretrained(network: Backbone, path: Path) -> None:
    """Fill `network` from a state dict: safetensors, torch's format (only its tensors are read), or dlib's.

    The classifier and the layers after the network's cut are ignored, anything else has to fit. A first layer
    for colour is summed over its three channels: that is what it answers to the same grey in all of them.
    torchvision normalises a grey level to about (level - 115) / 58, nearly our (level - 128) / 64.

    Raises `TrainingError` naming what is missing, not expected, or of another shape.
    """
    own = {name: value for name, value in network.state_dict().items() if not name.endswith(_COUNTER)}
    given = {
        name: value
        for name, value in _read(path).items()
        if not name.startswith(network.left_out) and not name.endswith(_COUNTER)
    }
    given = {name: _grey(value, own.get(name, value)) for name, value in given.items()}
    problems = [
        *(f"{name} is missing" for name in own.keys() - given.keys()),
        *(f"{name} is not expected" for name in given.keys() - own.keys()),
        *(
            f"{name} has the shape {tuple(given[name].shape)}, expected {tuple(value.shape)}"
            for name, value in own.items()
            if name in given and given[name].shape != value.shape
        ),
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise TrainingError(
            f"{path}: weights of another architecture ({shown}{more}); "
            "give expression.pretrained the weights of this backbone, or leave it out"
        )
    network.load_state_dict({**network.state_dict(), **given})


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".dat":
            return read_dlib(path)
        if path.suffix == ".safetensors":
            tensors: object = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise TrainingError(
            f"{path}: not a file of weights ({type(error).__name__}: {' '.join(str(error).split())[:100]}); "
            "expected a state dict, as .safetensors or as torch.save writes it"
        ) from error
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise TrainingError(
            f"{path}: holds {type(tensors).__name__}, expected names and tensors: a state dict"
        )
    return tensors


def _grey(weight: Tensor, wanted: Tensor) -> Tensor:
    takes_colour = weight.ndim == 4 and wanted.ndim == 4 and weight.shape[1] == 3 and wanted.shape[1] == 1
    return weight.sum(dim=1, keepdim=True) if takes_colour else weight
