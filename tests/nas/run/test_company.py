"""How long a process waits for others, without any other process: a store in memory, and signs of life by hand."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import HashStore

from nas.run import company as module
from nas.run.company import Company, OtherStopped, in_thread, is_first_to_speak
from search_space import UserError


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = HashStore()
    found.set_timeout(timedelta(seconds=1))
    monkeypatch.setattr(module, "connect", lambda timeout_s: found)
    monkeypatch.setattr(module, "PULSE_S", 0.05)
    monkeypatch.setattr(module, "SLICE_S", 0.05)
    return found


@pytest.fixture
def company(store: Any) -> Iterator[Callable[[int, float], Company]]:
    made: list[Company] = []

    def make(rank: int, timeout_s: float) -> Company:
        made.append(Company(rank, 2, timeout_s))
        return made[-1]

    yield make
    for each in made:
        each.holds_stops = False
    for each in reversed(made):  # signal handlers are put back in turn
        each.leave()


class NeverDone:
    """An exchange in which the other takes no part."""

    def wait(self, timeout: timedelta) -> None:
        time.sleep(timeout.total_seconds())
        raise RuntimeError("Operation timed out!")

    def is_completed(self) -> bool:
        return False


def test_one_that_works_alone_is_waited_for_as_long_as_it_is_heard_of(company: Any, store: Any) -> None:
    first, second = company(0, 0.6), company(1, 0.6)
    threading.Timer(1.5, lambda: first.ask(lambda store: store.set("done", "1"))).start()
    began = time.monotonic()
    second.until(lambda store: store.check(["done"]))
    assert time.monotonic() - began > 1.2  # twice what a silent one is given


def test_a_silent_one_is_waited_for_until_the_limit(company: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.2)
    alone = company(1, 0.5)
    began = time.monotonic()
    with pytest.raises(OtherStopped, match=r"was not heard of for 0.5 s \(distributed.timeout_s\)"):
        alone.until(lambda store: store.check(["never"]))
    assert 0.4 < time.monotonic() - began < 3
    assert alone.holds_stops  # SIGTERM waits until that is said


def test_an_exchange_has_the_limit_even_while_all_are_heard_of(company: Any) -> None:
    company(0, 0.5)
    second = company(1, 0.5)
    with pytest.raises(OtherStopped, match=r"runs, but was not ready for 0.5 s"):
        second.carry_through(NeverDone)
    assert second.waits_in_vain


def test_sigterm_ends_the_wait_for_a_silent_one_soon(company: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.2)
    alone = company(1, 60)
    alone.holds_stops = True
    threading.Timer(0.3, alone.note_stop).start()
    with pytest.raises(OtherStopped, match="stopped, and another process does not answer"):
        alone.carry_through(NeverDone)


def test_a_store_that_hangs_or_is_gone_is_an_end(company: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.2)
    alone = company(1, 0.5)
    with pytest.raises(OtherStopped, match="was not heard of"):
        alone.ask(lambda store: time.sleep(20))
    with pytest.raises(OtherStopped, match="the store of torchrun is gone"):
        alone.result(in_thread(store_that_fails), module.NO_STORE)


def store_that_fails() -> None:
    raise RuntimeError("Connection reset by peer")


def test_several_processes_without_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"WORLD_SIZE=2 asks for several processes, which torchrun starts: .*RANK"):
        Company(0, 2, 5)


def test_one_of_a_machine_speaks_and_each_that_cannot_ask(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_RANK", "0")
    assert [is_first_to_speak(store), is_first_to_speak(store)] == [True, False]
    monkeypatch.setenv("GROUP_RANK", "1")
    assert is_first_to_speak(store)
    monkeypatch.setattr(module, "ASK_S", 0.1)
    monkeypatch.setattr(module, "connect", lambda timeout_s: time.sleep(20))
    assert is_first_to_speak()
