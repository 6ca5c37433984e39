"""The state of a training run after an epoch, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from maskfer import atomic
from maskfer.provenance import training_code_sha256

_OPTIMIZER = "optimizer"


def fingerprint(stage: str, *parts: Path | BaseModel | int | tuple[str, ...]) -> str:
    """Return a name for a run that changes with its stage, its inputs (files by content) and the code."""
    digest = hashlib.sha256(f"{stage} {training_code_sha256()}".encode())
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else repr(part).encode()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def path_of(out: Path, *, folder: Path | None) -> Path:
    """Return where a run that makes `out` keeps its state, as `Checkpoint.of` takes it."""
    return (folder or out.parent) / f".{out.name}.checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file; `fingerprint` names the run (data, parameters, code), so that no other goes on from it."""

    path: Path
    fingerprint: str

    @classmethod
    def of(cls, path: Path, fingerprint: str) -> Self:
        """Return that of one run: two that go on at a time, or one after the other, do not meet in a file."""
        return cls(path.with_name(f"{path.name}-{fingerprint[:8]}.safetensors"), fingerprint)

    def save(
        self,
        states: Mapping[str, Mapping[str, Tensor]],
        *,
        optimizer: torch.optim.Optimizer,
        history: list[dict[str, Any]],
    ) -> None:
        """Write, whole or not at all, so that a kill while writing leaves the epoch before."""
        tensors = {
            f"{group}/{name}": value for group, state in states.items() for name, value in state.items()
        }
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}/{index}/{name}": value for name, value in moments.items()}
        # Cloned: safetensors refuses tensors that share memory, and keeps no memory format.
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        metadata = {"fingerprint": self.fingerprint, "history": json.dumps(history)}
        atomic.write_bytes(self.path, save(plain, metadata))

    def load(
        self, *, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, dict[str, Tensor]], list[dict[str, Any]]] | None:
        """Return states and history and fill `optimizer`; None where there is nothing to go on from."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
                if metadata.get("fingerprint") != self.fingerprint:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError:
            # Not ours or damaged: a run from the beginning replaces it.
            return None
        states: dict[str, dict[str, Tensor]] = {}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            group, name = key.split("/", 1)
            if group == _OPTIMIZER:
                index, moment = name.split("/", 1)
                moments.setdefault(int(index), {})[moment] = value
            else:
                states.setdefault(group, {})[name] = value
        _restore(optimizer, moments)
        return states, json.loads(metadata["history"])

    def remove(self) -> None:
        """Delete the file: the run is complete and its result is elsewhere."""
        self.path.unlink(missing_ok=True)


def _restore(optimizer: torch.optim.Optimizer, moments: dict[int, dict[str, Tensor]]) -> None:
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            # The fused optimiser walks memory, not indices: the layout has to be the parameter's.
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
