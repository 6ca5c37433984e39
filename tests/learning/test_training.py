"""The training loop and the three tasks, on faces a few pixels wide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskfer.errors import TrainingError
from maskfer.learning import losses, scores
from maskfer.learning.augment import Jitter
from maskfer.learning.checkpoint import Checkpoint
from maskfer.learning.faces import Faces
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.models.two_branch import TwoBranchNet
from maskfer.learning.tasks.expression import ExpressionLoss, ExpressionTask
from maskfer.learning.tasks.heatmap import HeatmapTask
from maskfer.learning.tasks.mask import MaskTask
from maskfer.learning.training import Plan, Trainer, shuffled_batches

CPU = torch.device("cpu")
STILL = Jitter(shift=0, scale=0, rotation_deg=0, contrast=0, brightness=0, gamma=0, blur=0, noise=0)
LOSS = ExpressionLoss(prior_strength=0.5, label_smoothing=0.1, consistency=0.5)


def _mask_task(faces: Faces) -> MaskTask:
    torch.manual_seed(0)
    return MaskTask(MaskClassifier(grid=4, width=8), faces, faces, batch_size=16, device=CPU)


def _heatmap_task(faces: Faces) -> HeatmapTask:
    torch.manual_seed(0)
    maps = torch.nn.functional.avg_pool2d(faces.regions.float().unsqueeze(1), 8).squeeze(1)
    classifier = MaskClassifier(grid=4, width=8)
    return HeatmapTask(classifier, faces, maps, faces, maps, batch_size=16, device=CPU, region_weight=0.5)


def _pulled(faces: Faces, *, region_weight: float) -> dict[str, float]:
    """Fit a head to exact maps that see the upper half of the mask only; return what it was judged to be."""
    torch.manual_seed(0)
    regions = torch.nn.functional.avg_pool2d(faces.regions.float().unsqueeze(1), 8).squeeze(1)
    maps = regions * (torch.arange(4) < 3).view(1, 4, 1)
    task = HeatmapTask(
        MaskClassifier(grid=4, width=8),
        faces,
        maps,
        faces,
        maps,
        batch_size=16,
        device=CPU,
        region_weight=region_weight,
        jitter=STILL,
    )
    return list(Trainer(task, Plan(25, task.steps_per_epoch, 3e-2), seed=0, device=CPU).epochs())[-1].metrics


def _expression_task(faces: Faces) -> ExpressionTask:
    torch.manual_seed(0)
    return ExpressionTask(
        TwoBranchNet(classes=3, width=8),
        MaskClassifier(grid=4, width=8),
        faces,
        faces,
        classes=3,
        batch_size=16,
        device=CPU,
        weights=LOSS,
    )


@pytest.mark.parametrize("make", [_mask_task, _heatmap_task, _expression_task])
def test_a_few_epochs_lower_the_loss(make: Callable[[Faces], Any], twins: Callable[..., Faces]) -> None:
    task = make(twins())

    reports = list(Trainer(task, Plan(8, task.steps_per_epoch, 1e-2), seed=0, device=CPU).epochs())

    assert reports[-1].loss < 0.9 * reports[0].loss
    assert all(0 <= report.metrics["score"] <= 1 for report in reports[1:])


@pytest.mark.parametrize("make", [_mask_task, _heatmap_task, _expression_task])
def test_the_same_seed_gives_the_same_weights(
    make: Callable[[Faces], Any], twins: Callable[..., Faces]
) -> None:
    weights = []
    for _ in range(2):
        task = make(twins())
        trainer = Trainer(task, Plan(2, task.steps_per_epoch, 1e-2), seed=3, device=CPU)
        list(trainer.epochs())
        weights.append(trainer.best)

    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=0, msg=name)


def test_what_was_trained_before_learns_at_its_share_of_the_rate(twins: Callable[..., Faces]) -> None:
    task = _mask_task(twins())
    before = {name: value.detach().clone() for name, value in task.model.named_parameters()}
    slow = {name for name in before if name.startswith("block1.")}
    assert slow
    assert slow < before.keys()
    plan = Plan(1, 1, 1e-3, weight_decay=0, pretrained=frozenset(slow), pretrained_rate=0.01)

    # One batch: the first step of Adam is as long as its rate, whatever the gradient.
    faces = task.train
    task.batches = lambda _: iter([torch.arange(len(faces))])  # type: ignore[method-assign]
    list(Trainer(task, plan, seed=0, device=CPU).epochs())

    moved = {
        name: float((p.detach() - before[name]).abs().max()) for name, p in task.model.named_parameters()
    }
    for name, distance in moved.items():
        assert distance <= (1.01e-5 if name in slow else 1.01e-3), name
    assert max(moved[name] for name in slow) == pytest.approx(1e-5, rel=0.05)
    assert max(moved[name] for name in moved.keys() - slow) == pytest.approx(1e-3, rel=0.05)


def test_a_run_resumed_after_each_epoch_ends_as_an_uninterrupted_one(
    twins: Callable[..., Faces], tmp_path: Path
) -> None:
    faces = twins()
    plan = Plan(3, _mask_task(faces).steps_per_epoch, 1e-2)
    whole = Trainer(_mask_task(faces), plan, seed=0, device=CPU)
    list(whole.epochs())
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "this run")

    for _ in range(3):
        pieces = Trainer(_mask_task(faces), plan, seed=0, device=CPU, checkpoint=checkpoint)
        next(report for report in pieces.epochs() if not report.resumed)

    assert [report.loss for report in pieces.history] == [report.loss for report in whole.history]
    for name, value in whole.best.items():
        torch.testing.assert_close(pieces.best[name], value, rtol=0, atol=0, msg=name)


def test_runs_of_one_name_keep_their_checkpoints_apart(tmp_path: Path) -> None:
    first, second = (Checkpoint.of(tmp_path / ".release.checkpoint", run * 32) for run in ("ab", "cd"))

    for checkpoint in (first, second):
        list(Trainer(_Breaks(), Plan(2, 2, 0.5), seed=0, device=CPU, checkpoint=checkpoint).epochs())
    second.remove()

    assert [path.name for path in tmp_path.iterdir()] == [".release.checkpoint-abababab.safetensors"]


def test_the_checkpoint_of_another_run_is_not_gone_on_from(
    twins: Callable[..., Faces], tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    for name in ("this run", "another run"):
        task = _mask_task(twins(6))
        trainer = Trainer(task, Plan(1, 1, 1e-2), seed=0, device=CPU, checkpoint=Checkpoint(path, name))
        assert [report.resumed for report in trainer.epochs()] == [False]


def test_a_damaged_checkpoint_means_a_fresh_start(twins: Callable[..., Faces], tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"not safetensors")
    trainer = Trainer(
        _mask_task(twins(6)), Plan(1, 1, 1e-2), seed=0, device=CPU, checkpoint=Checkpoint(path, "run")
    )

    assert [report.resumed for report in trainer.epochs()] == [False]


@dataclass
class _Breaks:
    """Two good epochs, then a loss that is not a number, or a gradient that is not in the last step."""

    title: str = "expression"
    model: nn.Linear = field(default_factory=lambda: nn.Linear(1, 1))
    in_gradient: bool = False
    epoch: int = 0
    step: int = 0

    def batches(self, generator: torch.Generator) -> Any:
        self.epoch += 1
        return shuffled_batches(4, batch_size=2, generator=generator)

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        del generator
        self.step += 1
        value = self.model(batch.float().unsqueeze(1)).square().mean()
        if self.in_gradient:
            # The root's slope at zero is infinite.
            return value + (0 * value).sqrt() if self.step == 6 else value
        return value * (math.nan if self.epoch == 3 else 1.0)

    def validate(self, model: nn.Linear) -> dict[str, float]:
        del model
        return {"score": 0.0}


def test_a_loss_that_is_not_a_number_stops_with_one_line_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "run")
    trainer = Trainer(_Breaks(), Plan(4, 2, 0.5), seed=0, device=CPU, checkpoint=checkpoint)

    with pytest.raises(TrainingError) as caught:
        list(trainer.epochs())

    message = str(caught.value)
    assert "expression: the loss is nan at epoch 3, step 1" in message
    assert f"epoch 2 is kept in {checkpoint.path}" in message
    assert "lower expression.learning_rate (now 0.5)" in message
    assert "\n" not in message
    resumed = Trainer(_Breaks(), Plan(4, 2, 0.5), seed=0, device=CPU, checkpoint=checkpoint)
    assert [next(resumed.epochs()).resumed, len(resumed.history)] == [True, 2]


def test_a_full_accelerator_is_one_line_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation")

    task = _Breaks()
    monkeypatch.setattr(task, "loss", full)

    with pytest.raises(TrainingError) as caught:
        list(Trainer(task, Plan(1, 2, 0.5), seed=0, device=CPU).epochs())

    message = str(caught.value)
    assert message.startswith("expression: the accelerator is full: CUDA out of memory.")
    assert "lower batch_size, or start fewer trainings" in message
    assert "\n" not in message


def test_weights_that_the_last_step_of_an_epoch_has_broken_do_not_replace_the_good_ones(
    tmp_path: Path,
) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "run")
    trainer = Trainer(_Breaks(in_gradient=True), Plan(3, 2, 0.5), seed=0, device=CPU, checkpoint=checkpoint)

    with pytest.raises(
        TrainingError, match=r"expression: weight \w+ is nan or inf after epoch 3.*epoch 2 is kept"
    ):
        list(trainer.epochs())

    assert len(trainer.history) == 2


def test_what_other_processes_trained_is_taken_over_only_when_it_is_finished(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "run")
    done = Trainer(_Breaks(), Plan(2, 2, 0.5), seed=0, device=CPU, checkpoint=checkpoint)
    list(done.epochs())

    reader = Trainer(_Breaks(), Plan(2, 2, 0.5), seed=0, device=CPU, checkpoint=checkpoint)
    reader.read_back()

    assert all(torch.equal(reader.best[name], value) for name, value in done.best.items())
    other = Checkpoint(checkpoint.path, "another run")
    with pytest.raises(TrainingError, match="0 of 2 epochs of this run were found"):
        Trainer(_Breaks(), Plan(2, 2, 0.5), seed=0, device=CPU, checkpoint=other).read_back()


def test_the_region_term_pulls_the_head_from_the_exact_map_to_the_drawn_mask(
    twins: Callable[..., Faces],
) -> None:
    free, pulled = (_pulled(twins(), region_weight=weight) for weight in (0.0, 4.0))

    assert pulled["iou"] > free["iou"] + 0.1
    assert pulled["correlation"] < free["correlation"]
    assert pulled["heat_unmasked"] < 0.02


def test_a_real_mask_whose_region_nobody_knows_pulls_nowhere(twins: Callable[..., Faces]) -> None:
    faces = twins()
    real = replace(faces, regions=torch.zeros_like(faces.regions))

    def loss(region_weight: float) -> float:
        task = replace(_heatmap_task(real), region_weight=region_weight)
        return task.loss(torch.arange(24, 40), torch.Generator().manual_seed(0)).item()

    assert loss(4.0) == loss(0.0)


def test_the_rate_rises_and_then_falls_to_nothing() -> None:
    plan = Plan(epochs=10, steps_per_epoch=10, learning_rate=1.0, warmup=0.2)
    rates = [plan.rate(step) for step in range(100)]

    assert max(rates) == rates[19] == 1.0
    assert rates[0] < 0.1
    assert rates[-1] < 0.01
    assert rates[19:] == sorted(rates[19:], reverse=True)


@pytest.mark.parametrize(("count", "batch", "sizes"), [(10, 4, [4, 4]), (3, 8, [3]), (8, 8, [8])])
def test_batches_are_whole_and_small_data_is_one_batch(count: int, batch: int, sizes: list[int]) -> None:
    batches = list(shuffled_batches(count, batch_size=batch, generator=torch.Generator().manual_seed(0)))

    assert [len(rows) for rows in batches] == sizes
    assert len(set(torch.cat(batches).tolist())) == sum(sizes)


def test_a_rare_class_costs_more_when_the_prior_is_lifted() -> None:
    labels = torch.tensor([0] * 9 + [1])
    prior = losses.log_priors(labels, 2)
    logits = torch.zeros(1, 2)

    rare, common = (
        losses.adjusted_cross_entropy(
            logits, torch.tensor([label]), log_prior=prior, strength=1.0, smoothing=0.0
        )
        for label in (1, 0)
    )

    assert rare == pytest.approx(-math.log(0.1), rel=1e-4)
    assert common == pytest.approx(-math.log(0.9), rel=1e-4)


def test_rows_without_a_label_do_not_count_for_the_prior() -> None:
    prior = losses.log_priors(torch.tensor([-1, 0, 1, -1]), 2)

    torch.testing.assert_close(prior.exp(), torch.tensor([0.5, 0.5]))


def test_the_loss_weighs_every_head_and_adds_the_methods_penalty() -> None:
    certain, wrong = torch.tensor([[50.0, 0]]), torch.tensor([[0.0, 50]])
    heads = (Head(certain, 0.5), Head(certain, 0.35), Head(wrong, 0.15))

    def loss(penalty: Tensor | None) -> float:
        reading = ExpressionReading(certain, heads, penalty)
        return losses.expression(
            reading, torch.tensor([0]), log_prior=torch.zeros(2), strength=0.0, smoothing=0.0
        ).item()

    assert loss(None) == pytest.approx(0.15 * 50, rel=1e-4)
    assert loss(torch.tensor(2.0)) == pytest.approx(0.15 * 50 + 2, rel=1e-4)


def test_the_answer_learns_from_masks_that_are_seen_and_from_none_but_not_from_scraps() -> None:
    logits = torch.zeros(4, requires_grad=True)

    losses.mask_verdict(logits, torch.tensor([0.0, 0.3, 0.6, 1.0])).backward()  # type: ignore[no-untyped-call]

    assert logits.grad is not None
    none, scrap, most, whole = logits.grad.tolist()
    assert none > 0
    assert scrap == 0
    assert most == whole < 0


def test_a_batch_of_scraps_alone_says_nothing_of_the_answer() -> None:
    loss = losses.mask_verdict(torch.tensor([3.0, -3.0]), torch.tensor([0.2, 0.4]))

    assert loss.item() == 0


def test_twins_that_agree_cost_nothing_and_only_the_masked_one_learns() -> None:
    masked = torch.tensor([[1.0, 0.0]], requires_grad=True)
    unmasked = torch.tensor([[0.0, 1.0]], requires_grad=True)

    assert losses.twin_consistency(unmasked, unmasked).item() == pytest.approx(0.0, abs=1e-6)
    losses.twin_consistency(masked, unmasked).backward()  # type: ignore[no-untyped-call]

    assert masked.grad is not None
    # Down the divergence: towards the unmasked answer, class 1.
    assert masked.grad[0, 0] > 0 > masked.grad[0, 1]
    assert unmasked.grad is None


def test_macro_f1_counts_every_class_alike() -> None:
    labels = torch.tensor([0, 0, 0, 1])

    assert scores.macro_f1(torch.tensor([0, 0, 0, 0]), labels, classes=3) == pytest.approx(6 / 7 / 2)
    assert scores.macro_f1(labels, labels, classes=3) == 1


class _ReadsTheHeatmap(ExpressionNet):
    """Sure of class 1 where part of the heatmap is nearly 1, of class 0 where none is."""

    def __init__(self) -> None:
        super().__init__()
        self.sureness = nn.Parameter(torch.tensor(100.0))

    def forward(self, faces: Tensor, context: FaceContext) -> ExpressionReading:
        del faces
        logit = self.sureness * (context.heatmap.amax(dim=(1, 2)) - 0.9)
        answer = torch.stack([-logit, logit], dim=1)
        return ExpressionReading(answer, (Head(answer, 1.0),))


def test_true_regions_stand_in_for_the_heatmap_in_training_and_in_judging(
    twins: Callable[..., Faces],
) -> None:
    faces = twins()
    faces = replace(faces, labels=faces.is_masked.long())

    def task(*, true_regions: bool) -> ExpressionTask:
        torch.manual_seed(0)
        return ExpressionTask(
            _ReadsTheHeatmap(),
            MaskClassifier(grid=4, width=8),
            faces,
            faces,
            classes=2,
            batch_size=16,
            device=CPU,
            weights=ExpressionLoss(prior_strength=0.0, label_smoothing=0.0, consistency=0.0),
            true_regions=true_regions,
        )

    informed, blind = task(true_regions=True), task(true_regions=False)
    generator = torch.Generator().manual_seed(0)
    batch = next(informed.batches(generator))

    assert informed.validate(informed.model)["masked_accuracy"] == 1
    assert informed.validate(informed.model)["unmasked_accuracy"] == 1
    assert blind.validate(blind.model)["masked_accuracy"] == 0
    assert informed.loss(batch, generator).item() < 1
    assert blind.loss(batch, generator).item() > 1
