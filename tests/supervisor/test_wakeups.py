"""A signal becomes a note and rings the bell; afterwards all is as it was."""

import select
import signal

import pytest

from background_task.supervisor.wakeups import Wakeups

HEEDED = [signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture
def wakeups():
    with Wakeups(HEEDED) as wakeups:
        yield wakeups


def rings(wakeups):
    return bool(select.select([wakeups], [], [], 0)[0])


def test_without_a_signal_the_bell_is_silent(wakeups):
    assert not rings(wakeups)
    assert wakeups.take() == []


def test_a_signal_rings_and_leaves_a_note(wakeups):
    signal.raise_signal(signal.SIGUSR1)

    assert rings(wakeups)
    assert wakeups.take() == [signal.SIGUSR1]


def test_notes_are_taken_in_order_and_once(wakeups):
    for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
        signal.raise_signal(number)

    assert wakeups.take() == [signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2]
    assert not rings(wakeups)
    assert wakeups.take() == []


def test_more_signals_than_the_bell_has_room_for_are_all_noted(wakeups):
    for _ in range(5_000):
        signal.raise_signal(signal.SIGUSR1)

    assert wakeups.take() == [signal.SIGUSR1] * 5_000
    assert not rings(wakeups)


def test_a_signal_wakes_whoever_waits(wakeups):
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.raise_signal(signal.SIGUSR2)

    assert select.select([wakeups], [], [], 30)[0] == [wakeups]


def test_afterwards_handlers_and_wakeup_fd_are_as_before():
    def handler(number, frame):
        """From before."""

    former = signal.signal(signal.SIGUSR1, handler)
    try:
        with Wakeups(HEEDED):
            assert signal.getsignal(signal.SIGUSR1) is not handler

        assert signal.getsignal(signal.SIGUSR1) is handler
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_one_inside_another_gives_back_what_it_took(wakeups):
    with Wakeups(HEEDED) as inner:
        signal.raise_signal(signal.SIGUSR1)
        assert inner.take() == [signal.SIGUSR1]

    signal.raise_signal(signal.SIGUSR2)

    assert rings(wakeups)
    assert wakeups.take() == [signal.SIGUSR2]
