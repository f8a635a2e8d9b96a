"""Signals, garbage collection and determinism, and that all is put back."""

from __future__ import annotations

import gc
import os
import signal
import threading

import pytest
import torch

from hornbook.train.process import Interrupt, collection_paused, reproducible, settings_restored


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_second_one_ends(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        os.kill(os.getpid(), number)
        assert interrupt.requested
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_nothing_is_touched() -> None:
    asked: list[bool] = []

    def enter() -> None:
        with Interrupt() as interrupt:
            asked.append(interrupt.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert asked == [False]


def test_collection_and_determinism_are_put_back() -> None:
    threads = torch.get_num_threads()
    with settings_restored(), collection_paused(), reproducible(True):
        torch.set_num_threads(threads + 1)
        assert not gc.isenabled()
        assert torch.are_deterministic_algorithms_enabled()
    assert gc.isenabled()
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
