"""Signals become a request that is granted between two steps; before and after there is nothing to wait for."""

import os
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from anchorlab.training.callbacks.checkpoints import SeedOfTheStep
from anchorlab.training.stopping import Stopped, StopRequest


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)]
)
def test_signal_stops_at_once_before_training_and_waits_within(number, code):
    with StopRequest(), pytest.raises(Stopped) as stopped:
        send(number)
    assert stopped.value.exit_code == code
    assert stopped.value.signal == number
    with StopRequest() as stop:
        stop.be_patient()
        assert not stop.signal
        send(number)
        assert stop.signal == number


def test_second_ctrl_c_stops_at_once_but_no_second_sigterm():
    with StopRequest() as stop:
        stop.be_patient()
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        with pytest.raises(Stopped):
            send(signal.SIGINT)


def test_handlers_are_put_back_and_what_was_ignored_stays_ignored():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with StopRequest():
            assert signal.getsignal(signal.SIGTERM) != before
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_stop_is_no_exception_that_anything_catches_on_the_way():
    assert not issubclass(Stopped, Exception)


def drawn(seed: int, step: int, rank: int) -> list[float]:
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=step), global_rank=rank)
    SeedOfTheStep(seed).on_train_batch_start(cast(Any, trainer), cast(Any, None), None, 0)
    return torch.nn.functional.dropout(torch.ones(64)).tolist()


def test_layers_that_draw_draw_by_seed_step_and_process_alone():
    first = drawn(0, 5, 0)
    torch.rand(7)
    assert drawn(0, 5, 0) == first
    assert first not in (drawn(1, 5, 0), drawn(0, 6, 0), drawn(0, 5, 1))
