"""Several processes that train one network: each has a share of every batch, and all take the same step.

Started by torchrun, which sets RANK and WORLD_SIZE; otherwise there is one process and everything here is the
identity. Weights, gates and random draws are equal in all processes by construction, so only gradients, batch
statistics and counts are exchanged. What one process alone knows, the others hear through torchrun's store: the run's
folder, and that an error was said. Not for reading data: `nas.data` gives each process its share.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from search_space import UserError

_meetings = itertools.count()  # every process goes through the same ones, so that they number them alike
_SAID = "an error was said"
_stop = threading.Event()  # SIGTERM came while it was held off


class OtherStopped(UserError):
    """Another process is gone, so that this one cannot continue."""


@dataclass(frozen=True)
class Place:
    """Where a process computes, and which of how many it is."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    ranks: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


def place(accelerator: str) -> Place:
    """Where this process works, by torchrun's environment. Raises `UserError` for an accelerator that is not there."""
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError("accelerator=cuda: torch finds no CUDA device here; use accelerator=cpu or auto")
    if accelerator == "cpu" or not torch.cuda.is_available():
        return Place(torch.device("cpu"), rank, ranks)
    local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= devices:
        raise UserError(f"process {local} of this machine has no GPU of its own: there are {devices}")
    return Place(torch.device("cuda", local), rank, ranks)


@contextmanager
def joined(here: Place) -> Iterator[None]:
    """Within, the functions below speak with the other processes. May be entered again.

    They wait here for the first one, however long it has been busy alone.
    """
    if here.ranks == 1:
        yield
        return
    if here.device.type == "cuda":
        torch.cuda.set_device(here.device)
    meeting = from_first(here, lambda: "meeting") + str(next(_meetings))
    backend = "cpu:gloo,cuda:nccl" if here.device.type == "cuda" else "gloo"
    store = distributed.PrefixStore(meeting, _store())  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=here.rank, world_size=here.ranks)
    release = hold_stops_off()
    try:
        yield
    except OtherStopped:
        raise
    except BaseException:
        _store().add(_SAID, 1)  # before the others notice that this one left
        raise
    else:
        release()
    finally:
        distributed.destroy_process_group()


def hold_stops_off() -> Callable[[], None]:
    """Keep SIGTERM from ending this process before it has said why it ends; returns what undoes that.

    When one process is lost torchrun sends SIGTERM to the others at once, which may be before they notice the loss
    themselves. Held off, it ends them at their next exchange: by `OtherStopped` if that fails, else by
    KeyboardInterrupt. torchrun kills what is still there after 30 s.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    _stop.clear()
    before = signal.signal(signal.SIGTERM, lambda number, frame: _stop.set())

    def release() -> None:
        signal.signal(signal.SIGTERM, before)
        if _stop.is_set():  # and no exchange followed
            signal.raise_signal(signal.SIGTERM)

    return release


@cache
def _store() -> Any:
    """Torchrun's, which outlives the processes."""
    store, _, _ = next(rendezvous("env://"))
    return store


def from_first(here: Place, make: Callable[[], str]) -> str:
    """The text that the first process makes, in all of them."""
    if here.ranks == 1:
        return make()
    key = f"text{next(_meetings)}"
    if here.first:
        _store().set(key, make())
    while not _store().check([key]):  # a wait of the store's own would hear no signal
        time.sleep(0.05)
    return _store().get(key).decode()


def is_said(error: UserError) -> bool:
    """Whether another process says this error, or the one that was the reason for it; if not, this one shall."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    try:
        if isinstance(error, OtherStopped) and _store().add(_SAID, 0):
            return True
        return _store().add(f"said {error}", 1) > 1
    except (RuntimeError, ValueError):  # torchrun is gone, or was never there
        return False


def is_joined() -> bool:
    """Whether this process works together with others now."""
    return distributed.is_available() and distributed.is_initialized()


def total(value: Tensor) -> Tensor:
    """The sum over all processes. Raises `OtherStopped`, and KeyboardInterrupt if SIGTERM was held off meanwhile."""
    if is_joined():
        value = value.clone()
        try:
            distributed.all_reduce(value)
        except RuntimeError as error:  # the connection to one that ended is closed
            raise OtherStopped("another process stopped") from error
        if _stop.is_set():
            raise KeyboardInterrupt
    return value


def average(values: Sequence[Tensor]) -> list[Tensor]:
    """Their means over all processes, without gradients, by one message."""
    values = [value.detach() for value in values]
    if not is_joined():
        return values
    flat = total(torch.cat([value.reshape(-1) for value in values])) / distributed.get_world_size()
    parts = flat.split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


def average_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Make every gradient the mean over all processes; returns the mean loss.

    Only parameters that have a gradient take part: the active path's, the same ones everywhere.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    loss, *means = average([loss, *grads])
    if is_joined():
        for grad, mean in zip(grads, means, strict=True):
            grad.copy_(mean)
    return loss


class _Total(torch.autograd.Function):
    """`total`, whose gradient is the total of the gradients: the loss is the sum of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return total(grads[0])


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batch of all processes, on any device (torch's SyncBatchNorm refuses CPUs)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        return self.normalise(x, self.weight, self.bias)

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """By the statistics of the whole batch; x: (N, C, H, W); weight, bias: (C,), of the first C channels."""
        given, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        ones = x.new_full((1,), x.numel() / x.shape[1])
        sums = _Total.apply(torch.cat([x.sum((0, 2, 3)), ones]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(-1, 1, 1)
        variance = _Total.apply(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats:
            self._update_running(mean.detach(), variance.detach(), count)
        factor = (variance + self.eps).rsqrt() * weight
        return (centred * factor.view(-1, 1, 1) + bias.view(-1, 1, 1)).to(given)

    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / (count - 1), share)


def with_global_norms(model: nn.Module) -> nn.Module:
    """Exchange every BatchNorm for one over all processes, with the same parameters; nothing for a single process."""
    if not is_joined():
        return model
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm) is nn.BatchNorm2d:
                new = GlobalBatchNorm2d(
                    norm.num_features, norm.eps, norm.momentum, track_running_stats=norm.track_running_stats
                )
                new.to(norm.weight.device, norm.weight.dtype).load_state_dict(norm.state_dict())
                setattr(parent, name, new.train(norm.training))
    return model
