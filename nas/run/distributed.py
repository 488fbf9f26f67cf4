"""Several processes that train one network: each has a share of every batch, and all take the same step.

Started by torchrun, which sets RANK and WORLD_SIZE; otherwise there is one process and everything here is the
identity. Weights, gates and random draws are equal in all processes by construction, so only gradients, batch
statistics and counts are exchanged. What one process alone knows, the others hear through torchrun's store: the run's
folder, and that an error was said. How long they wait for each other: `nas.run.company`. Not for reading data:
`nas.data` gives each process its share.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from nas.run.company import Company, OtherStopped, in_thread, is_first_to_speak
from search_space import UserError

_meetings = itertools.count()  # every process goes through the same ones, so that they number them alike
LATER_S = 10.0  # torch's own limit, which ends a process without a word, comes so long after ours
_given_up: list[Any] = []  # groups in which an exchange never ended: torch would wait for it when it forgets them
_company: Company | None = None  # within `together`
_speaks: bool | None = None  # whether this process says why the processes of its machine end; None: not asked yet


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
def together(here: Place, timeout_s: float) -> Iterator[None]:
    """Around a whole run of several processes: within, none waits for another that is gone.

    An error that leaves it is to be said soon: SIGTERM is held off until then. timeout_s: `distributed.timeout_s`.
    """
    global _company
    if here.ranks == 1:
        yield
        return
    _company = Company(here.rank, here.ranks, timeout_s)
    try:
        yield
    except BaseException:
        _company.holds_stops = True
        is_to_say()  # before the others notice that this one left
        raise
    finally:
        _company.leave()
        _company = None


@contextmanager
def joined(here: Place) -> Iterator[None]:
    """Within, the functions below speak with the other processes. May be entered again, within `together`.

    They wait here for each other as long as they hear of each other, however long the first has been busy alone.
    """
    if here.ranks == 1:
        yield
        return
    company, meeting = _company, f"meeting{next(_meetings)}"
    assert company is not None
    if here.device.type == "cuda":
        torch.cuda.set_device(here.device)
    company.ask(lambda store: store.add(meeting, 1))
    company.until(lambda store: store.add(meeting, 0) == here.ranks)
    company.holds_stops = True
    company.result(in_thread(lambda: _connect(here, company, meeting)), "another process stopped")
    try:
        yield
    except OtherStopped:
        raise
    except BaseException:
        is_to_say()  # before the others notice that this one left
        raise
    finally:
        if company.waits_in_vain:
            _given_up.append(distributed.group.WORLD)
        distributed.destroy_process_group()
    company.holds_stops = False
    if company.stop_asked is not None:  # and no exchange followed
        raise KeyboardInterrupt


def _connect(here: Place, company: Company, name: str) -> None:
    distributed.init_process_group(
        backend="cpu:gloo,cuda:nccl" if here.device.type == "cuda" else "gloo",
        store=distributed.PrefixStore(name, company.store),  # type: ignore[attr-defined]
        rank=here.rank,
        world_size=here.ranks,
        timeout=timedelta(seconds=company.timeout_s + LATER_S),
    )


def hold_stops_off() -> None:
    """Keep SIGTERM from ending this process before it has said why it ends, which takes a moment."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def from_first(here: Place, make: Callable[[], str]) -> str:
    """The text that the first process makes, in all of them."""
    if here.ranks == 1:
        return make()
    assert _company is not None
    key = f"text{next(_meetings)}"
    if here.first:
        text = make()
        _company.ask(lambda store: store.set(key, text))
        return text
    _company.until(lambda store: store.check([key]))
    return _company.ask(lambda store: store.get(key).decode())


def is_to_say() -> bool:
    """Whether this process says why the processes of its machine end: the first of them that asks, from then on."""
    global _speaks
    if _speaks is None:
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        _speaks = alone or is_first_to_speak(_company.store if _company else None)
    return _speaks


def note_stop() -> None:
    """To be called when this process is asked to stop between two steps."""
    if _company is not None:
        _company.note_stop()


def is_asked_of_any(asked: bool) -> bool:
    """Whether any process was asked to stop, in all of them.

    That all know is made sure by a second exchange: one that is lost after its part in the first takes none in it.
    """
    found = bool(total(torch.tensor(float(asked))))
    if found:
        total(torch.zeros(1))
    return found


def is_joined() -> bool:
    """Whether this process works together with others now."""
    return distributed.is_available() and distributed.is_initialized()


def total(value: Tensor) -> Tensor:
    """The sum over all processes. Raises `OtherStopped`, and KeyboardInterrupt long after SIGTERM."""
    if is_joined():
        assert _company is not None
        value = value.clone()
        if value.is_cuda:  # nccl: queued on the device, under torch's own watch
            try:
                distributed.all_reduce(value)
            except RuntimeError as error:
                raise _company.lost("another process stopped") from error
            return value
        _company.carry_through(lambda: distributed.all_reduce(value, async_op=True))
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
