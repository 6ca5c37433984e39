"""What a network costs: its size, the work for one face, and the time."""

from __future__ import annotations

import copy
import platform
import re
import time
from pathlib import Path
from statistics import median
from typing import Final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from maskfer.inference import Analyzer, Crops
from maskfer.learning.models.expression import ExpressionNet, FaceContext
from maskfer.learning.models.mask_aware import MaskAwareNet

_ROUNDS: Final = 5
_CPUINFO: Final = Path("/proc/cpuinfo")


def parameters(network: nn.Module) -> int:
    """Return the number of trained numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: ExpressionNet | MaskAwareNet, *, crop_size: int) -> int:
    """Return the multiplications, each with its addition, of convolutions and matrix products on one face.

    An `ExpressionNet` alone is counted without the networks that give it its context.
    """
    network = copy.deepcopy(network).to("cpu").eval()
    faces = torch.zeros(1, 1, crop_size, crop_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if isinstance(network, MaskAwareNet):
            network(faces)
        else:
            network(faces, FaceContext(torch.zeros(1, 1, 1), torch.full((1, 68, 2), 0.5)))
    operations: int = counter.get_total_flops()
    return operations // 2


def ms_a_face(analyzer: Analyzer, crops: Crops) -> float:
    """Return the median time of a face over some rounds, milliseconds, all `crops` in one call."""
    analyzer.predict(crops[:8])
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        analyzer.predict(crops)
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds) / len(crops)


def processor() -> str:
    """Return what the time was taken on, in words."""
    told = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", told, flags=re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()
