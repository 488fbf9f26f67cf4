"""Training and evaluating a network: the loop that fine-tuning and full training share.

Not for supernets: their loop belongs to a strategy. The command is `nas.train`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.data import DataSet, Split
from nas.run.checkpoint import Checkpoint, Checkpoints, load_optimizer, optimizer_tensors, part, under
from nas.run.distributed import average_gradients, total
from nas.training.lessons import Lessons, class_weights, taught_loss
from nas.training.mixing import mix
from nas.training.moving_average import MovingAverage
from nas.training.recipes import Recipe
from search_space import UserError

PHASE = "training"  # of checkpoints


class NotFinite(UserError):
    """A loss became NaN or infinite."""


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW, decay on matrices and kernels only.

    Parameters without a gradient get neither decay nor momentum: with separate weights those of unsampled
    candidates, with shared ones those of left-out slots.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, fused=True)


def set_cosine_lr(
    optimizer: torch.optim.Optimizer, step: int, total: int, peak: float, warmup: int, final: float = 0.0
) -> None:
    """Linear rise over `warmup` steps, then a half cosine to `final` at step `total`."""
    if step < warmup:
        lr = peak * (step + 1) / warmup
    else:
        done = (step - warmup) / max(1, total - warmup)
        lr = final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    for group in optimizer.param_groups:
        group["lr"] = lr


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """Within, layers compute in one of `nas.run.settings.PRECISIONS`; losses and parameters stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def checked(where: str, **values: Tensor) -> list[float]:
    """Losses or norms as numbers, by one transfer from the device. Raises `NotFinite`."""
    numbers: list[float] = torch.stack([value.detach() for value in values.values()]).tolist()
    for name, number in zip(values, numbers, strict=True):
        if not math.isfinite(number):
            raise NotFinite(f"the {name} became {number} in {where}; lower train.lr (recipe.lr) or the gradient clip")
    return numbers


def take_step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], loss: Tensor, clip: float, where: str
) -> float:
    """After backward: change the parameters, which lose their gradients; returns the loss.

    loss: scalar; clip: largest norm of the gradients, 0 for none. Loss and gradients are the means over all processes.
    Raises `NotFinite` before anything changes.
    """
    loss = average_gradients(parameters, loss)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    value, length = checked(where, loss=loss, gradient=norm)
    if 0 < clip < length:  # scaling gradients takes as long as their norm
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None
    return value


@dataclass(frozen=True)
class Score:
    """Of a network on images: the share that it has right, and its mean cross-entropy in nats."""

    accuracy: float
    loss: float


@torch.no_grad()
def score(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """On all images of all processes. predict: (N, 3, R, R) -> (N, classes)."""
    sums = torch.zeros(3, dtype=torch.float64)
    for images, labels in batches:
        logits = predict(images)
        right, loss = (logits.argmax(1) == labels).sum(), F.cross_entropy(logits.float(), labels, reduction="sum")
        sums = sums.to(labels.device) + torch.stack([right, loss, torch.full_like(right, len(labels))])
    right, loss, seen = total(sums).tolist()
    return Score(right / seen, loss / seen)


def accuracy(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of images whose largest logit is their label, over all processes. predict: (N, 3, R, R) -> (N, classes)."""
    return score(predict, batches).accuracy


def hold_statistics(model: nn.Module) -> None:
    """BatchNorms that have running statistics normalise by them from now on, in training too, and leave them alone.

    `model.train()` undoes it.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            module.eval()


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Measure every BatchNorm's mean and variance on the network's own path, as plain averages over the batches.

    batches: (N, 3, R, R), labels. The network ends in evaluation mode; one without BatchNorms is left as it is.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
    network.train()
    for number, (images, _) in enumerate(batches, start=1):
        for norm in norms:
            norm.momentum = 1 / number  # the average so far; torch's own, momentum=None, reads a count from the GPU
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def steps_per_epoch(data: DataSet, split: Split, recipe: Recipe) -> int:
    """Optimizer steps in one epoch."""
    return -(-data.steps(split, recipe.batch_size) // recipe.accumulate)


def train_network(
    network: nn.Module,
    data: DataSet,
    split: Split,
    resolution: int,
    recipe: Recipe,
    seed: int,
    on_step: Callable[[int, int, float], None] = lambda step, epoch, loss: None,
    checkpoints: Checkpoints | None = None,
    phase: str = PHASE,
    lessons: Lessons | None = None,
) -> None:
    """Train in place for `recipe.epochs`. The weights end as the moving average where `recipe.ema` > 0.

    lessons: what is learned from the split's images; their labels alone by default.

    With `checkpoints` it resumes from them if they are of this `phase`, and keeps them from first state to last.
    Raises `NotFinite`; the network then holds the last state.
    """
    run = _Training(network, recipe, seed)
    lessons = lessons or Lessons(split)
    per_epoch = steps_per_epoch(data, split, recipe)
    steps = recipe.epochs * per_epoch
    warmup = min(round(recipe.warmup_epochs * per_epoch), steps // 2)
    augment = _augmentation(recipe, data)
    weights = class_weights(split.labels, data.num_classes, recipe.balance)
    weights = None if weights is None else weights.to(data.place.device)
    if checkpoints and (saved := checkpoints.saved_in(phase)):
        run.restore(saved)
    with checkpoints.stopping_between_steps() if checkpoints else nullcontext():
        if checkpoints:
            checkpoints.keep(phase, run.step, run.state, now=True)
        network.train()
        if recipe.keep_statistics:
            hold_statistics(network)
        for epoch in range(run.step // per_epoch, recipe.epochs):
            batches = data.batches(
                lessons.split,
                resolution,
                recipe.batch_size,
                seed,
                epoch,
                training=True,
                start=run.step % per_epoch * recipe.accumulate,
            )
            for group in _groups(batches, recipe.accumulate):
                set_cosine_lr(run.optimizer, run.step, steps, recipe.lr, warmup, recipe.final_lr)
                value = torch.zeros(())
                for images, given in group:
                    labels = lessons.labels_of(given)
                    images, targets = mix(
                        augment(images), labels, data.num_classes, recipe.mixup, recipe.cutmix, run.draws
                    )
                    with computing_in(recipe.precision, images.device):
                        soft = lessons.soft_labels(given, images)
                        logits = network(images)
                        loss = taught_loss(logits, targets, soft, recipe.teacher_share, recipe.label_smoothing, weights)
                    loss = loss / len(group)  # the last of an epoch may be smaller
                    value = value.to(loss.device) + loss.detach()
                    loss.backward()
                on_step(run.step + 1, epoch, run.take_step(value, f"training epoch {epoch + 1}"))
                if checkpoints:
                    checkpoints.keep(phase, run.step, run.state, now=run.step == steps)
    if run.average is not None:
        run.average.put_in()
    network.eval()


class _Training:
    """The state of `train_network` between two steps."""

    def __init__(self, network: nn.Module, recipe: Recipe, seed: int) -> None:
        self.network, self.clip = network, recipe.gradient_clip
        self.optimizer = make_optimizer(network, recipe.lr, recipe.weight_decay)
        self.average = MovingAverage(network, recipe.ema) if recipe.ema else None
        self.draws = torch.Generator().manual_seed(seed)
        self.draws_on_gpu = next(network.parameters()).is_cuda
        self.step = 0

    def take_step(self, loss: Tensor, where: str) -> float:
        value = take_step(self.optimizer, list(self.network.parameters()), loss, self.clip, where)
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        return value

    def state(self) -> Checkpoint:
        tensors = {
            **under("network", self.network.state_dict()),
            **under("optimizer", optimizer_tensors(self.optimizer)),
            **(under("average", self.average.state()) if self.average is not None else {}),
            "draws": self.draws.get_state(),
            "default_draws": torch.get_rng_state(),  # of drop path and of kornia
        }
        if self.draws_on_gpu:
            tensors["gpu_draws"] = torch.cuda.get_rng_state()
        return Checkpoint(tensors, {"step": self.step})

    def restore(self, saved: Checkpoint) -> None:
        self.network.load_state_dict(part(saved.tensors, "network"))
        load_optimizer(self.optimizer, part(saved.tensors, "optimizer"))
        if self.average is not None:
            self.average.restore(part(saved.tensors, "average"))
        self.draws.set_state(saved.tensors["draws"])
        torch.set_rng_state(saved.tensors["default_draws"])
        if self.draws_on_gpu and "gpu_draws" in saved.tensors:
            torch.cuda.set_rng_state(saved.tensors["gpu_draws"])
        self.step = saved.facts["step"]


def _groups(batches: Iterator[tuple[Tensor, Tensor]], size: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _augmentation(recipe: Recipe, data: DataSet) -> Callable[[Tensor], Tensor]:
    """RandAugment, colour jitter and random erasing by kornia on normalised batches."""
    if not (recipe.randaugment or recipe.colour_jitter or recipe.random_erasing):
        return lambda images: images
    try:
        from kornia import augmentation
        from kornia.augmentation.auto import RandAugment
    except ImportError as error:
        raise UserError(
            "recipes with RandAugment, jitter or erasing need kornia: pip install -c constraints.txt -e '.[train]'"
        ) from error
    mean, std = (torch.tensor(v, device=data.place.device).view(3, 1, 1) for v in (data.mean, data.std))
    on_pixels: list[nn.Module] = []
    if recipe.randaugment:
        on_pixels.append(RandAugment(n=2, m=round(recipe.randaugment)))
    if recipe.colour_jitter:
        on_pixels.append(augmentation.ColorJiggle(*[recipe.colour_jitter] * 3, p=0.8))
    erase = augmentation.RandomErasing(p=recipe.random_erasing) if recipe.random_erasing else nn.Identity()

    def augment(images: Tensor) -> Tensor:
        pixels = (images * std + mean).clamp(0, 1)  # kornia's colour operations want 0..1
        for step in on_pixels:
            pixels = step(pixels).clamp(0, 1)
        return erase((pixels - mean) / std).contiguous(memory_format=torch.channels_last)

    return augment
