"""Inpainting: what stays, what is painted, and three networks that each learn for their own end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskfer.errors import TrainingError
from maskfer.learning import adversarial
from maskfer.learning.augment import Jitter
from maskfer.learning.checkpoint import Checkpoint
from maskfer.learning.faces import Faces
from maskfer.learning.models.inpainting import InpaintingGan, InpaintingGenerator, around
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.tasks.inpainting import InpaintingLoss, InpaintingTask
from maskfer.learning.training import Plan, Trainer

CPU = torch.device("cpu")


class _SeesWhite(MaskClassifier):
    """Its heatmap is right on the twins of these tests, whose masks are whiter than any face."""

    def heatmap(self, faces: Tensor) -> Tensor:
        return torch.sigmoid(nn.functional.avg_pool2d(faces, 8).squeeze(1) - 210)


def _task(faces: Faces, *, reconstruction: float = 1.0, opinion: float = 0.02) -> InpaintingTask:
    torch.manual_seed(0)
    return InpaintingTask(
        InpaintingGan(width=4),
        _SeesWhite(grid=4, width=8),
        faces,
        faces,
        batch_size=8,
        device=CPU,
        weights=InpaintingLoss(reconstruction, opinion),
        jitter=Jitter(contrast=0.05, brightness=5, gamma=0.05, blur=0, noise=0, erase=0),
    )


def _plan(task: InpaintingTask, *, epochs: int) -> Plan:
    return Plan(epochs, task.steps_per_epoch, 5e-3, weight_decay=0, gradient_memory=0.5, opponents=True)


def _faces(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0)) * 255


def test_what_the_heatmap_does_not_cover_stays_and_the_rest_is_grey_levels() -> None:
    torch.manual_seed(0)
    generator, faces = InpaintingGenerator(width=4).eval(), _faces()
    heatmap = torch.zeros(2, 4, 4)
    heatmap[:, 2:] = 1

    with torch.inference_mode():
        painted = generator(faces, heatmap)

    torch.testing.assert_close(painted[:, :, :12], faces[:, :, :12], rtol=0, atol=0)
    assert (painted - faces)[:, :, 16:].abs().mean() > 10
    assert painted.min() >= 0
    assert painted.max() <= 255


def test_a_face_without_a_mask_comes_out_as_it_went_in() -> None:
    faces = _faces()

    with torch.inference_mode():
        painted = InpaintingGenerator(width=4).eval()(faces, torch.full((2, 4, 4), 0.1))

    torch.testing.assert_close(painted, faces, rtol=0, atol=0)


def test_the_colour_of_the_mask_changes_nothing() -> None:
    generator, white = InpaintingGenerator(width=4).eval(), _faces()
    black, heatmap = white.clone(), torch.zeros(2, 4, 4)
    heatmap[:, 2:] = 1
    white[:, :, 20:], black[:, :, 20:] = 255, 0

    with torch.inference_mode():
        torch.testing.assert_close(generator(white, heatmap), generator(black, heatmap))


def test_at_full_width_the_encoder_has_the_convolutions_of_vgg19() -> None:
    with torch.device("meta"):
        encoder = InpaintingGenerator(width=64).encoder

    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    widths = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert [convolution.out_channels for convolution in convolutions] == widths


@pytest.mark.parametrize("part", ["generator", "discriminators"])
def test_every_parameter_gets_a_gradient(part: str) -> None:
    torch.manual_seed(0)
    gan, faces = InpaintingGan(width=4), _faces(4)
    regions = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    regions[:, :, 12:28, 8:24] = True
    painted = gan.generator(faces, torch.tensor([0.0, 0, 1, 1]).view(1, 4, 1).expand(4, 4, 4))
    with adversarial.held(*([gan.global_discriminator, gan.local_discriminator] * (part == "generator"))):
        logits = gan.judge(painted if part == "generator" else painted.detach(), regions)

    torch.stack([one.square().mean() for one in logits]).sum().backward()

    learns = {
        name for name, one in gan.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0
    }
    assert learns == {
        name for name, _ in gan.named_parameters() if name.startswith("generator") == (part == "generator")
    }


def test_the_box_around_the_mask_is_cut_out_and_resampled() -> None:
    regions = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    regions[0, :, 16:28, 6:26] = True
    faces = torch.where(regions, 200.0, 50.0)

    boxes = around(regions, side=16, faces=faces)

    # A square of 1.1 times the longer side, 20 pixels: the mask fills its width, and 12 of 22 rows.
    assert boxes.shape == (2, 1, 16, 16)
    filled = (boxes[0, 0] > 125).float()
    assert filled.mean().item() == pytest.approx(20 * 12 / 22**2, abs=0.06)
    assert filled[8].mean() > 0.8
    torch.testing.assert_close(boxes[1], torch.full((1, 16, 16), 50.0))


def _gradients(faces: Faces, **weights: float) -> dict[str, Tensor]:
    task = _task(faces, **weights)
    task.loss(torch.arange(24, 32), torch.Generator().manual_seed(0)).backward()  # type: ignore[no-untyped-call]
    return {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
        for name, one in task.model.named_parameters()
    }


def test_each_part_learns_from_its_own_loss_alone(twins: Callable[..., Faces]) -> None:
    faces = twins()
    both, discriminators_only = _gradients(faces), _gradients(faces, opinion=0, reconstruction=0)
    generator_only = _gradients(faces, opinion=0)

    for name, gradient in both.items():
        if name.startswith("generator"):
            assert not discriminators_only[name].any(), name
        else:
            torch.testing.assert_close(gradient, discriminators_only[name], rtol=0, atol=0, msg=name)
    assert any(
        not torch.equal(both[name], generator_only[name]) for name in both if name.startswith("generator")
    )


def test_the_discriminators_push_the_generator_towards_what_they_take_for_a_photograph() -> None:
    real, fake = torch.full((1, 1, 1, 1), 3.0), torch.tensor([[[[-3.0]]]], requires_grad=True)

    assert adversarial.discriminator_loss([real], [fake]).item() == 0
    assert adversarial.discriminator_loss([-real], [-fake]).item() == 8
    adversarial.generator_loss([fake]).backward()  # type: ignore[no-untyped-call]
    assert fake.grad is not None
    # Also where the discriminator is certain: its hinge would be flat there.
    assert fake.grad.item() == -1


def test_after_a_few_epochs_the_painted_face_is_nearer_to_the_original(twins: Callable[..., Faces]) -> None:
    task = _task(twins())

    reports = list(Trainer(task, _plan(task, epochs=8), seed=0, device=CPU).epochs())

    figures = reports[-1].metrics
    assert figures["psnr"] > figures["psnr_masked"] + 3
    assert figures["ssim"] > figures["ssim_masked"]


@pytest.mark.parametrize("broken_at", [4, 8])
def test_an_adversarial_run_that_is_broken_off_ends_where_an_uninterrupted_one_ends(
    twins: Callable[..., Faces], tmp_path: Path, broken_at: int
) -> None:
    faces = twins()
    plan = _plan(_task(faces), epochs=3)
    whole = Trainer(_task(faces), plan, seed=0, device=CPU)
    list(whole.epochs())
    checkpoint = Checkpoint(tmp_path / "run.safetensors", "this run")

    broken = Trainer(_BrokenOff(_task(faces), broken_at), plan, seed=0, device=CPU, checkpoint=checkpoint)
    with pytest.raises(KeyboardInterrupt):
        list(broken.epochs())
    resumed = Trainer(_task(faces), plan, seed=0, device=CPU, checkpoint=checkpoint)
    reports = list(resumed.epochs())

    assert [report.resumed for report in reports].count(True) == broken_at // 3
    assert [report.loss for report in reports] == [report.loss for report in whole.history]
    for name, value in whole.best.items():
        torch.testing.assert_close(resumed.best[name], value, rtol=0, atol=0, msg=name)


@dataclass
class _BrokenOff:
    """A task whose user loses patience in the middle of an epoch."""

    task: InpaintingTask
    steps: int
    title: str = "inpainting"

    @property
    def model(self) -> InpaintingGan:
        return self.task.model

    def batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        return self.task.batches(generator)

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        if self.steps == 0:
            raise KeyboardInterrupt
        self.steps -= 1
        return self.task.loss(batch, generator)

    def validate(self, model: InpaintingGan) -> dict[str, float]:
        return self.task.validate(model)


def test_a_discriminator_that_is_no_number_stops_the_run(twins: Callable[..., Faces]) -> None:
    task = _task(twins())
    with torch.no_grad():
        next(task.model.local_discriminator.parameters()).fill_(torch.nan)

    with pytest.raises(TrainingError, match=r"the loss is nan .* lower inpainting\.learning_rate"):
        list(Trainer(task, _plan(task, epochs=1), seed=0, device=CPU).epochs())


def test_the_gradient_of_one_opponent_does_not_shrink_the_others(twins: Callable[..., Faces]) -> None:
    task = _task(twins())

    list(Trainer(task, replace(_plan(task, epochs=1), gradient_norm=1e-3), seed=0, device=CPU).epochs())

    for part in task.model.children():
        gradients = [one.grad.norm() for one in part.parameters() if one.grad is not None]
        assert torch.stack(gradients).norm().item() == pytest.approx(1e-3, rel=1e-2)
