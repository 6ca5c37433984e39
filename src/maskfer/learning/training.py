"""One training loop for every network: averaged weights, best epoch, a checkpoint after each.

It reports by yielding; who records the figures is the caller's business. `ranks` says how several processes
share the work, `launch` starts them.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from maskfer.errors import TrainingError
from maskfer.learning.checkpoint import Checkpoint
from maskfer.learning.faces import Faces
from maskfer.learning.models.backbones import placed
from maskfer.learning.ranks import ALONE, LossOf, Ranks

Model = TypeVar("Model", bound=nn.Module)
Work = TypeVar("Work", bound="Task[Any]")

SCORE = "score"
"""The validation metric that chooses the best epoch; higher is better."""
_READ_EVERY = 16
"""Steps between two looks at the loss: a look makes an accelerator wait for the processor and back."""
_SHARE = "share"
"""What a group of parameters takes of the learning rate; a key of the optimiser's groups."""
_NEXT_RANK = 1_000_003
"""From one process's seed to the next one's; more than there are epochs, small enough for 32 bits."""


class Task(Protocol[Model]):
    """What is trained, on what, and how it is judged."""

    title: str
    """Name for messages, e.g. `expression`; also the section of params.yaml that holds its rates."""
    model: Model
    """The network; parameters that need no gradient stay as they are."""

    def batches(self, generator: Generator) -> Iterator[Int64[Tensor, " b"]]:
        """Yield the batches of one epoch, shuffled, as whatever `loss` takes, a row for each thing to learn.

        The same state of `generator` gives the same batches, whatever is drawn from it between them.
        """
        ...

    def loss(self, batch: Int64[Tensor, " b"], generator: Generator) -> Float[Tensor, ""]:
        """Return the loss of one batch, augmented with randomness from `generator` alone.

        It is a mean over the rows, and every trained parameter of `model` has a part in it.
        """
        ...

    def validate(self, model: Model) -> dict[str, float]:
        """Judge `model`, which has the task's architecture; the result has the key `score`."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast."""

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup: float = 0.15
    """Share of the steps in which the rate rises; after it a cosine falls to zero."""
    average_decay: float = 0.998
    """Memory of the averaged weights, per step; the average is what is judged and kept."""
    gradient_norm: float = 2.0
    gradient_memory: float = 0.9
    """Memory of the gradient's running mean, per step (beta_1 of AdamW)."""
    opponents: bool = False
    """The model's children are trained against each other: one's gradient must not shrink another's.

    Each child is then clipped by itself; that each learns from its own loss alone is the task's business.
    """
    pretrained: frozenset[str] = frozenset()
    """Names of the parameters that were trained before. They learn at `pretrained_rate` times the rate, so
    that layers without knowledge do not undo theirs."""
    pretrained_rate: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        total = self.epochs * self.steps_per_epoch
        rising = max(1, round(self.warmup * total))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One epoch as it went."""

    epoch: int
    """Counted from 1."""
    epochs: int
    loss: float
    """Mean over the epoch's steps."""
    metrics: dict[str, float]
    seconds: float
    is_best: bool
    resumed: bool = False
    """True where it was done before a kill and only read back."""


@dataclass
class Trainer(Generic[Work]):
    """Trains a task's model; `best` holds the averaged weights of its best epoch when `epochs` ends.

    With a `checkpoint` it goes on after the last epoch that was finished under the same `fingerprint`, and
    ends where an uninterrupted run would have ended. Of several `ranks` the first one judges, keeps `best`
    and writes the checkpoint, which says nothing of their number; the others yield nothing new.
    """

    task: Work
    plan: Plan
    seed: int
    device: torch.device
    checkpoint: Checkpoint | None = None
    ranks: Ranks = ALONE
    history: list[EpochReport] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def epochs(self) -> Iterator[EpochReport]:
        """Train, yielding after each epoch; epochs read back from a checkpoint come first.

        Raises `TrainingError` where the loss is no longer a number, or an accelerator's memory is full; the
        last epoch's checkpoint stays.
        """
        model = placed(self.task.model, self.device)
        average = copy.deepcopy(model).eval()
        optimizer = _optimizer(model, self.plan)
        if self.checkpoint is not None:
            self._resume(self.checkpoint, model, average, optimizer)
        yield from self.history
        loss_of = self.ranks.loss_of(self.task.loss, model)
        for epoch in range(len(self.history) + 1, self.plan.epochs + 1):
            started = time.perf_counter()
            with full_memory_is_an_error(self.task.title):
                loss = self._run_epoch(epoch, loss_of, model, average, optimizer)
                if not self.ranks.leads:
                    continue
                metrics = self.task.validate(average)
            is_best = metrics[SCORE] >= max((past.metrics[SCORE] for past in self.history), default=-math.inf)
            if is_best:
                self.best = {name: value.clone() for name, value in average.state_dict().items()}
            seconds = time.perf_counter() - started
            report = EpochReport(epoch, self.plan.epochs, loss, metrics, seconds, is_best)
            self.history.append(report)
            if self.checkpoint is not None:
                self._save(self.checkpoint, model, average, optimizer)
            yield report

    def read_back(self) -> None:
        """Take over the run that other processes have finished, from its checkpoint.

        Raises `TrainingError` where that is not this run's, or not finished.
        """
        model = placed(self.task.model, self.device)
        if self.checkpoint is not None:
            self._resume(self.checkpoint, model, copy.deepcopy(model), _optimizer(model, self.plan))
        if len(self.history) < self.plan.epochs:
            raise TrainingError(
                f"{self.task.title}: {len(self.history)} of {self.plan.epochs} epochs of this run were found "
                "after training; its data were changed meanwhile, or its checkpoint removed; start it again"
            )

    def _run_epoch(
        self,
        epoch: int,
        loss_of: LossOf,
        model: nn.Module,
        average: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> float:
        # Seeded by the epoch, so that a resumed run draws what an uninterrupted one would. Dropout knows only
        # the global generator: it is forked, so that nobody else's randomness is touched. All processes draw
        # the same batches, and each its own augmentation.
        seed = self.seed * 100_003 + epoch
        own_seed = seed + self.ranks.rank * _NEXT_RANK
        order = Generator(self.device).manual_seed(seed)
        own = order if self.ranks.count == 1 else Generator(self.device).manual_seed(own_seed)
        losses = _Losses(self.ranks)
        model.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(own_seed)
            for steps, batch in enumerate(self.task.batches(order)):
                step = (epoch - 1) * self.plan.steps_per_epoch + steps
                for group in optimizer.param_groups:
                    group["lr"] = self.plan.rate(step) * group[_SHARE]
                part = self._part(batch)
                loss = loss_of(part, own)
                weight = len(part) / len(batch)
                optimizer.zero_grad(set_to_none=True)
                # Times their number, because what the processes do is take the mean over themselves.
                (loss * (weight * self.ranks.count)).backward()  # type: ignore[no-untyped-call]
                for child in model.children() if self.plan.opponents else [model]:
                    nn.utils.clip_grad_norm_(child.parameters(), self.plan.gradient_norm)
                optimizer.step()
                _follow(average, model, decay=min(self.plan.average_decay, (1 + step) / (10 + step)))
                losses.add(loss.detach() * weight)
                if (steps + 1) % _READ_EVERY == 0:
                    self._require_finite(losses.read(), epoch)
        self._require_finite(losses.read(), epoch)
        self._require_finite_weights(model, epoch)
        return sum(losses.values) / max(1, len(losses.values))

    def _part(self, batch: Int64[Tensor, " b *rest"]) -> Int64[Tensor, " part *rest"]:
        if len(batch) < self.ranks.count:
            raise TrainingError(
                f"{self.task.title}: {self.ranks.count} processes cannot share a batch of {len(batch)}; set "
                f"MASKFER_TRAINING_PROCESSES to {len(batch)} or less, or raise {self.task.title}.batch_size"
            )
        return self.ranks.share(batch)

    def _require_finite(self, losses: list[float], epoch: int) -> None:
        for step, value in enumerate(losses, 1):
            if not math.isfinite(value):
                raise TrainingError(
                    self._diverged(f"the loss is {value} at epoch {epoch}, step {step}", epoch)
                )

    def _require_finite_weights(self, model: nn.Module, epoch: int) -> None:
        # The loss of an epoch's last step says nothing of what that step made of the weights.
        for name, parameter in model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise TrainingError(self._diverged(f"weight {name} is nan or inf after epoch {epoch}", epoch))

    def _diverged(self, what: str, epoch: int) -> str:
        kept = "no epoch was finished"
        if self.checkpoint is not None and epoch > 1:
            kept = f"epoch {epoch - 1} is kept in {self.checkpoint.path}"
        return (
            f"{self.task.title}: {what}, expected a number; {kept}; lower {self.task.title}.learning_rate "
            f"(now {self.plan.learning_rate:g}), which starts over"
        )

    def _save(
        self, checkpoint: Checkpoint, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        checkpoint.save(
            {"model": model.state_dict(), "average": average.state_dict(), "best": self.best},
            optimizer=optimizer,
            history=[
                {
                    "loss": report.loss,
                    "metrics": report.metrics,
                    "seconds": report.seconds,
                    "is_best": report.is_best,
                }
                for report in self.history
            ],
        )

    def _resume(
        self, checkpoint: Checkpoint, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        saved = checkpoint.load(optimizer=optimizer)
        if saved is None:
            return
        states, history = saved
        model.load_state_dict(states["model"])
        average.load_state_dict(states["average"])
        self.best = {name: value.to(self.device) for name, value in states["best"].items()}
        self.history = [
            EpochReport(epoch, self.plan.epochs, resumed=True, **past)
            for epoch, past in enumerate(history, 1)
        ]


@dataclass
class _Losses:
    """The losses of an epoch's steps, left on the device until they are read."""

    ranks: Ranks
    values: list[float] = field(default_factory=list)
    """Those read so far."""
    _unread: list[Tensor] = field(default_factory=list)

    def add(self, share: Float[Tensor, ""]) -> None:
        """Take this process's share of a step's loss."""
        self._unread.append(share)

    def read(self) -> list[float]:
        """Return the losses of all steps so far; every process has to ask for them after the same step."""
        if self._unread:
            self.values += self.ranks.sum(torch.stack(self._unread)).tolist()
            self._unread.clear()
        return self.values


def judged(task: Any, others: Faces) -> dict[str, float]:
    """Return the figures of a task's model, trained already, on `others` instead of its `val`."""
    figures: dict[str, float] = replace(task, val=others).validate(task.model)
    return {name: value for name, value in figures.items() if name != SCORE}


@contextmanager
def full_memory_is_an_error(what: str) -> Iterator[None]:
    """Raise `TrainingError`, one line that begins with `what`, where an accelerator runs out of memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{what}: the accelerator is full: {' '.join(str(error).split())[:120]}; "
            "lower batch_size, or start fewer trainings on it at a time"
        ) from error


def default_device() -> torch.device:
    """The accelerator where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine() -> str:
    """Return what a training runs on here, in words, for what is said about its result."""
    if default_device().type == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "a processor"


def reduced_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware multiplies matrices of it, float32 elsewhere.

    AVX-512's bfloat16 does not count: with it these convolutions took 1.3 to 2 times as long as in float32.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let each thread of ours compute alone, where there is one for every core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def shuffled_batches(count: int, *, batch_size: int, generator: Generator) -> Iterator[Int64[Tensor, " b"]]:
    """Yield the numbers 0..count-1, shuffled, in batches; what does not fill the last one waits an epoch.

    Fewer than one batch's worth is one batch.
    """
    order = torch.randperm(count, generator=generator, device=generator.device)
    for start in range(0, max(1, count - batch_size + 1), batch_size):
        yield order[start : start + batch_size]


@torch.inference_mode()
def inference(model: nn.Module, faces: Faces, *, batch_size: int = 256) -> Any:
    """Return the model's answers on all faces, as float32 on the faces' device.

    A model that answers a named tuple of tensors gets a named tuple back, one that answers a tensor a tensor.
    """
    device = faces.images.device
    model = placed(model, device).eval()
    with reduced_precision(device):
        parts = [
            model(faces.batch(rows).contiguous(memory_format=torch.channels_last))
            for rows in _chunks(len(faces), batch_size, device)
        ]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts).float()
    return type(parts[0])(*(torch.cat(columns).float() for columns in zip(*parts, strict=True)))


def _chunks(count: int, size: int, device: torch.device) -> Iterator[Int64[Tensor, " b"]]:
    for start in range(0, count, size):
        yield torch.arange(start, min(count, start + size), device=device)


def _optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        # Weight decay is for weights: on a normalisation's scale or a bias it only fights the data.
        decay = plan.weight_decay if parameter.ndim > 1 else 0.0
        share = plan.pretrained_rate if name in plan.pretrained else 1.0
        if parameter.requires_grad:
            groups.setdefault((decay, share), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay, _SHARE: share} for (decay, share), group in groups.items()],
        lr=plan.learning_rate,
        betas=(plan.gradient_memory, 0.999),
        fused=True,
    )


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, *, decay: float) -> None:
    state, target = average.state_dict(), model.state_dict()
    floating = [name for name, value in state.items() if value.is_floating_point()]
    torch._foreach_lerp_([state[name] for name in floating], [target[name] for name in floating], 1 - decay)
    for name in state.keys() - set(floating):
        state[name].copy_(target[name])
