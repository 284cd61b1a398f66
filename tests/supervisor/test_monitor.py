"""What the monitor is told, and what is answered for it."""

import contextlib
import socket
import threading

import pytest

from background_task import probe
from background_task.supervisor import monitor
from background_task.supervisor.channel import Channel, pair
from background_task.supervisor.condition import Condition
from background_task.supervisor.httpd import Server, listen, text
from background_task.supervisor.monitor import Monitor
from background_task.supervisor.options import OptionError


@pytest.fixture
def told():
    """Return a monitor whose process reads nothing, and the end that it would read."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        ours, theirs = pair()
        it = Monitor(listening, "nobody:calls", {})
        it.channel = stack.enter_context(contextlib.closing(Channel(ours)))
        it._process = object()  # as if it were up
        yield it, stack.enter_context(contextlib.closing(Channel(theirs)))
        it._process = None


def test_a_tick_brings_what_was_noted_since_the_last(told):
    it, far = told
    it.note("ended", task="one")
    it.tick(Condition(failure="draining", workers=3))
    it.tick(Condition(lease_age=0.0))

    first, second = far.receive()

    assert (first["why_not"], first["workers"], first["lost"]) == ("draining", 3, 0)
    assert first["notes"] == [{"kind": "ended", "task": "one"}]
    assert (second["why_not"], second["notes"]) == ("", [])


def test_what_a_monitor_does_not_read_is_dropped_and_counted(told):
    it, far = told
    for _ in range(3):
        for n in range(monitor._MOST_NOTES + 5):
            it.note("ended", task=f"shop.tasks.one {n}")
        it.tick(Condition(lease_age=0.0))
        assert it.channel.waiting_to_send  # the first is too large for the socket

    ticks = []
    while it.channel.waiting_to_send:
        ticks += far.receive()
        it.channel.flush()
    it.tick(Condition(lease_age=0.0))
    while it.channel.waiting_to_send or len(ticks) < 2:
        ticks += far.receive()
        it.channel.flush()

    assert [len(tick["notes"]) for tick in ticks] == [monitor._MOST_NOTES] * 2
    assert [tick["lost"] for tick in ticks] == [5, monitor._MOST_NOTES + 10]


def test_more_clients_than_there_is_room_for_are_turned_away():
    entered, leave = threading.Semaphore(0), threading.Event()

    def answer(path):
        entered.release()
        leave.wait()
        return text(200, path)

    with listen("127.0.0.1", 0) as listening, contextlib.ExitStack() as stack:
        server = Server(listening, answer)
        serving = threading.Thread(target=server.serve, daemon=True)
        serving.start()
        stack.callback(leave.set)

        def client():
            one = socket.create_connection(listening.getsockname())
            one.settimeout(30)
            return stack.enter_context(one)

        inside = [client() for _ in range(32)]
        for one in inside:
            one.sendall(b"GET /a?b HTTP/1.1\r\n\r\n")
            assert entered.acquire(timeout=30)
        turned_away = client().recv(1)
        leave.set()
        served = [one.recv(9) for one in inside]
        listening.shutdown(socket.SHUT_RDWR)
    serving.join()

    assert turned_away == b""
    assert served == [b"HTTP/1.1 "] * 32


def test_a_port_that_is_taken_is_refused():
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(OptionError, match=f"nothing can listen on port {port} of"):
            listen("127.0.0.1", port)


def broken_metrics(environment):
    raise RuntimeError("the password of postgres://ops:s3cret@db is wrong")


def test_metrics_tell_nobody_why_the_project_cannot_be_set_up(caplog):
    board = monitor._Board()

    board.become(f"{__name__}:broken_metrics", {})

    status, _, body = board.answer("/metrics")
    assert status == 500
    assert b"s3cret" not in body
    assert "s3cret" in caplog.text


def test_without_django_the_probe_takes_the_same_age_for_dead():
    assert probe.MAX_AGE == monitor.MAX_AGE
