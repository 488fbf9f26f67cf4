"""How long a process waits for the others, and how all of them end when one is lost.

Every process leaves a sign of life in torchrun's store once a second. While one works alone, as the first does when it
exports, the others wait as long as they hear of it. In an exchange, which all enter at about the same time, they wait
`distributed.timeout_s` at most. Nothing here blocks for longer than a slice of a second without looking up: at these
limits, and at SIGTERM.

SIGTERM says nothing of its reason: somebody stops the run, or torchrun has seen one of its processes end. So within an
exchange it decides nothing; that one which is lost cannot take part does. Not for what is exchanged: see
`nas.run.distributed`.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

from torch.distributed import Work, distributed_c10d
from torch.distributed.rendezvous import rendezvous

from search_space import UserError
from search_space.errors import one_line

PULSE_S = 1.0  # between two signs of life
SLICE_S = 0.2  # within which a wait looks up
ASK_S = 10.0  # for the store's word on who speaks, when the run ends anyway
SILENT_S = 10.0  # without a sign, and SIGTERM came: another is taken for lost
STOP_S = 20.0  # after SIGTERM a process ends even if the others are only slow; torchrun kills after 30 s
NO_STORE = "the store of torchrun is gone"
Answer = TypeVar("Answer")


class OtherStopped(UserError):
    """Another process is gone, so that this one cannot continue."""


class Company:
    """The other processes of a run, as one process hears of them. timeout_s: `distributed.timeout_s`.

    holds_stops: SIGTERM is only noted, as what comes of it is decided by the exchange; else it is a KeyboardInterrupt.
    """

    def __init__(self, rank: int, ranks: int, timeout_s: float) -> None:
        """Raises `UserError` where torchrun has not started this process, and `OtherStopped`."""
        self.rank, self.ranks, self.timeout_s = rank, ranks, timeout_s
        self.holds_stops = False
        self.stop_asked: float | None = None  # when
        self._last: Work | None = None  # exchange
        self._heard = dict.fromkeys(set(range(ranks)) - {rank}, time.monotonic())
        self._ended = threading.Event()
        self._before: Any = None
        try:
            self.store = self.result(in_thread(lambda: connect(timeout_s)), NO_STORE)
        except ValueError as error:
            asked = f"WORLD_SIZE={ranks} asks for several processes, which torchrun starts"
            raise UserError(f"{asked}: {one_line(error)}") from error
        self._pulse = threading.Thread(target=self._beat, daemon=True)
        self._pulse.start()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_stop)

    def leave(self) -> None:
        """The run is over; where it failed, SIGTERM stays held off until that is said."""
        self._ended.set()
        self._pulse.join(PULSE_S)  # unless the store hangs
        if self._before is not None and not self.holds_stops:
            signal.signal(signal.SIGTERM, self._before)

    def lost(self, reason: str) -> OtherStopped:
        """What to raise; from now on SIGTERM ends nothing before that is said."""
        self.holds_stops = True
        return OtherStopped(reason)

    def ask(self, question: Callable[[Any], Answer]) -> Answer:
        """What the store answers. Raises `OtherStopped`."""
        return self.result(in_thread(lambda: question(self.store)), NO_STORE)

    def until(self, question: Callable[[Any], bool]) -> None:
        """Wait as long as all are heard of until the store's answer is yes. Raises `OtherStopped`."""
        while not self.ask(question):
            self.look_up()
            time.sleep(0.05)

    def carry_through(self, exchange: Callable[[], Work]) -> None:
        """Wait for what all processes do together. Raises `OtherStopped`, and KeyboardInterrupt long after SIGTERM."""
        began = time.monotonic()
        try:
            self._last = work = exchange()
            while True:
                try:
                    work.wait(timedelta(seconds=SLICE_S))
                    break
                except RuntimeError:
                    if work.is_completed():
                        raise
                self.look_up(began)
        except RuntimeError as error:  # the connection to one that ended is closed
            raise self.lost("another process stopped") from error
        if self.stop_asked is not None and time.monotonic() - self.stop_asked > STOP_S:
            raise KeyboardInterrupt

    @property
    def waits_in_vain(self) -> bool:
        """Whether an exchange was given up, which torch then waits for wherever its group is taken apart."""
        return self._last is not None and not self._last.is_completed()

    def look_up(self, began: float | None = None) -> None:
        """Raise `OtherStopped` if to wait longer is in vain. began: when, of what all should do within the limit."""
        now, limit = time.monotonic(), f"{self.timeout_s:g} s (distributed.timeout_s)"
        silent_s = now - min(self._heard.values())
        if max(silent_s, now - (began or now)) > self.timeout_s:
            heard = silent_s < self.timeout_s / 2
            raise self.lost(f"another process {'runs, but was not ready' if heard else 'was not heard of'} for {limit}")
        if self.stop_asked is not None and (silent_s > SILENT_S or now - self.stop_asked > STOP_S):
            raise self.lost("stopped, and another process does not answer")

    def note_stop(self) -> None:
        """A signal asks this process to stop."""
        self.stop_asked = self.stop_asked or time.monotonic()

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.note_stop()
        if not self.holds_stops:
            self.holds_stops = True  # one is enough to be said
            raise KeyboardInterrupt

    def result(self, future: Future[Answer], failed: str) -> Answer:
        """Of work that all do together, in a thread. Raises `OtherStopped`, for `failed` where the work itself does."""
        began = time.monotonic()
        while True:
            try:
                return future.result(SLICE_S)
            except TimeoutError:
                self.look_up(began)
            except RuntimeError as error:
                raise self.lost(failed) from error

    def _beat(self) -> None:
        """Leave signs of life and look for those of others; a store that fails is silence."""
        others = {rank: f"life of {rank}" for rank in self._heard}
        last: dict[int, bytes] = {}
        try:
            store = connect(self.timeout_s)  # of its own: a client is busy while it waits
            for count in itertools.count():
                store.set(f"life of {self.rank}", str(count))
                if store.check(list(others.values())):
                    for rank, sign in zip(others, store.multi_get(list(others.values())), strict=True):
                        if sign != last.get(rank):
                            last[rank], self._heard[rank] = sign, time.monotonic()
                if self._ended.wait(PULSE_S):
                    return
        except (RuntimeError, ValueError):
            return


def connect(timeout_s: float) -> Any:
    """A client of torchrun's store, which outlives the processes. Raises RuntimeError and ValueError."""
    store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    return distributed_c10d.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def in_thread(work: Callable[[], Answer]) -> Future[Answer]:
    """Its result; a thread that never ends keeps no process from ending."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def is_first_to_speak(store: Any = None) -> bool:
    """Whether this process of its machine says why they end: the first that asks, and each that gets no answer."""
    machine = os.environ.get("GROUP_RANK") or socket.gethostname()
    try:
        return in_thread(lambda: bool((store or connect(ASK_S)).add(f"said on {machine}", 1) == 1)).result(ASK_S)
    except (RuntimeError, ValueError, TimeoutError):  # the store is gone, was never there, or cannot be reached
        return True
