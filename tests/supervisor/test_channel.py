"""What one of our processes says to another arrives whole, or not at all."""

import contextlib
import os
import resource
import socket
import subprocess
import sys

import pytest

from background_task.supervisor.channel import Channel, pair

from .tools import channels


@pytest.fixture
def ends():
    with channels() as (speaker, hearer):
        yield speaker, hearer


@pytest.fixture
def raw():
    """A bare socket, and the channel that listens to it and does not trust it."""
    first, second = pair()
    with first, contextlib.closing(Channel(second, longest=1_000)) as hearer:
        yield first, hearer


@contextlib.contextmanager
def no_more_open_files():
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)


def test_a_message_arrives_as_it_was_sent(ends):
    speaker, hearer = ends

    speaker.send("report", error="line\nbreak \x00 \N{SNOWMAN}", at=1.5)

    assert hearer.receive() == [
        {"kind": "report", "error": "line\nbreak \x00 \N{SNOWMAN}", "at": 1.5}
    ]


SEND_TOO_MANY_DESCRIPTORS = """
import os, resource
from background_task.supervisor.channel import Channel, pair

os.setgroups([]); os.setgid(65534); os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
speaker, hearer = map(Channel, pair())
for number in range(200):
    speaker.send("n", fds=[os.open(os.devnull, os.O_RDONLY)], number=number)
    if speaker.waiting_to_send:
        break
print("waits" if speaker.waiting_to_send else "all sent")
heard = []
while len(heard) <= number:
    heard += hearer.receive()
    for message in heard:
        for fd in message.pop("fds", []):
            os.close(fd)
    speaker.flush()
print([message["number"] for message in heard] == list(range(number + 1)))
speaker.close()
hearer.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_the_kernel_has_no_room_for_is_sent_later():
    """More descriptors under way than a user may have, say."""
    command = [sys.executable, "-W", "error", "-c", SEND_TOO_MANY_DESCRIPTORS]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (said.stdout, said.stderr) == ("waits\nTrue\n", "")


def test_messages_arrive_in_order(ends):
    speaker, hearer = ends

    for number in range(100):
        speaker.send("n", number=number)

    assert [message["number"] for message in hearer.receive()] == list(range(100))


def test_nothing_said_is_nothing_heard(ends):
    _, hearer = ends

    assert hearer.receive() == []
    assert not hearer.ended


def test_a_part_of_a_message_waits_for_the_rest(raw):
    end, hearer = raw

    end.send(b'{"kind": "a"}\n{"kind": ')
    first = hearer.receive()
    end.send(b'"b"}\n')

    assert first == [{"kind": "a"}]
    assert hearer.receive() == [{"kind": "b"}]


def test_what_has_no_room_is_sent_later():
    first, second = pair()
    first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with (
        contextlib.closing(Channel(first)) as speaker,
        contextlib.closing(Channel(second)) as hearer,
    ):
        text = "x" * 1_000_000
        speaker.send("big", text=text)
        speaker.send("small")

        assert speaker.waiting_to_send
        heard = []
        while len(heard) < 2:
            heard += hearer.receive()
            speaker.flush()

        assert heard == [{"kind": "big", "text": text}, {"kind": "small"}]
        assert not speaker.waiting_to_send


def test_no_more_is_read_at_once_than_asked_for(raw):
    end, hearer = raw
    end.setblocking(False)
    end.send((b'{"kind": "a"}\n' * 10_000)[:100_000])

    first = hearer.receive(most=1)

    assert 0 < len(first) < 10_000
    assert hearer.receive()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"no json at all",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"{}",
        b"null",
        b'{"kind": "a", "fds": 1}',
        b'{"kind": "a", "fds": -1}',
        b'{"kind": "a", "fds": "b"}',
        b'{"kind": "a", "fds": [1]}',
        b'{"kind": ["a"]}',
        b"[" * 900,
        b"9" * 900,
    ],
    ids=lambda nonsense: nonsense[:30].decode(errors="replace"),
)
def test_what_is_no_message_does_not_hide_the_next(raw, nonsense):
    end, hearer = raw

    end.send(nonsense + b'\n{"kind": "a"}\n')

    assert hearer.receive()[-1] == {"kind": "a"}


def test_nesting_that_is_too_deep_is_no_message():
    first, second = pair()
    with first, contextlib.closing(Channel(second)) as hearer:
        first.send(b"[" * 50_000 + b'\n{"kind": "a"}\n')

        assert hearer.receive() == [{"kind": "a"}]


def test_a_line_that_is_too_long_is_dropped(raw):
    end, hearer = raw

    end.send(b'{"kind": "' + b"x" * 2_000)
    heard = hearer.receive()
    end.send(b'"}\n{"kind": "a"}\n')

    assert heard == []
    assert hearer.receive() == [{"kind": "a"}]


def test_a_line_that_is_too_long_is_dropped_when_it_comes_at_once(raw):
    end, hearer = raw

    end.send(b'{"kind": "' + b"x" * 2_000 + b'"}\n{"kind": "a"}\n')

    assert hearer.receive() == [{"kind": "a"}]


def test_the_rest_of_a_line_that_is_too_long_is_no_message(raw):
    end, hearer = raw

    end.send(b"x" * 2_000)
    hearer.receive()
    end.send(b'{"kind": "forged"}\n{"kind": "a"}\n')

    assert hearer.receive() == [{"kind": "a"}]


def test_open_files_travel_with_their_message(ends):
    speaker, hearer = ends
    reader, writer = os.pipe()

    speaker.send("none")
    speaker.send("one", fds=[writer])
    _, message = hearer.receive()
    (received,) = message["fds"]
    os.write(received, b"through")
    os.close(received)

    assert os.read(reader, 100) == b"through"
    assert os.read(reader, 100) == b""  # the sender's own copy is closed
    os.close(reader)


def test_open_files_stay_with_their_message(ends):
    speaker, hearer = ends
    pipes = [os.pipe() for _ in range(3)]

    for _, writer in pipes:
        speaker.send("pipe", fds=[writer])
    for (reader, _), message in zip(pipes, hearer.receive(), strict=True):
        (received,) = message["fds"]
        os.close(received)

        assert os.read(reader, 1) == b""
        os.close(reader)


@pytest.mark.parametrize("longest", [None, 1_000], ids=["trusted", "not trusted"])
def test_files_that_nobody_takes_are_closed(longest):
    end, other = pair()
    reader, writer = os.pipe()
    with end, contextlib.closing(Channel(other, longest)) as hearer:
        socket.send_fds(end, [b"no message"], [writer])
        os.close(writer)
        hearer.receive()

    assert os.read(reader, 1) == b""
    os.close(reader)


def test_files_for_which_there_is_no_room_are_missing_from_their_message_only(ends):
    speaker, hearer = ends
    readers = []
    for kind in ("first", "second"):
        reader, writer = os.pipe()
        speaker.send(kind, fds=[writer])
        readers.append(reader)

    with no_more_open_files():
        (first,) = hearer.receive(most=1)
    (second,) = hearer.receive()

    assert first == {"kind": "first"}
    (received,) = second["fds"]
    os.close(received)
    for reader in readers:
        assert os.read(reader, 1) == b""
        os.close(reader)


def test_files_from_a_peer_that_is_not_trusted_are_closed_at_once(raw):
    end, hearer = raw
    reader, writer = os.pipe()

    socket.send_fds(end, [b'{"kind": "a", "fds": 1}\n'], [writer])
    os.close(writer)

    assert hearer.receive() == [{"kind": "a"}]
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_files_that_were_never_sent_are_closed():
    first, second = pair()
    first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    reader, writer = os.pipe()
    with second, contextlib.closing(Channel(first)) as speaker:
        speaker.send("big", text="x" * 1_000_000)
        speaker.send("one", fds=[writer])
        assert speaker.waiting_to_send

    assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_end_is_told_after_the_last_words(ends):
    speaker, hearer = ends

    speaker.send("bye")
    speaker.close()

    assert hearer.receive() == [{"kind": "bye"}]
    assert hearer.ended


def test_what_is_said_to_the_dead_is_dropped(ends):
    speaker, hearer = ends
    reader, writer = os.pipe()
    hearer.close()

    speaker.send("hello", fds=[writer])

    assert not speaker.waiting_to_send
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_one_that_died_without_reading_has_ended(ends):
    speaker, hearer = ends

    speaker.send("unread")
    hearer.close()  # with unread data: the other side is reset

    assert speaker.receive() == []
    assert speaker.ended


def test_one_that_hangs_up_still_hears(ends):
    speaker, hearer = ends

    speaker.hang_up()
    hearer.receive()
    hearer.send("last words")

    assert hearer.ended
    assert speaker.receive() == [{"kind": "last words"}]


def test_hanging_up_on_the_dead_is_nothing(ends):
    speaker, hearer = ends
    hearer.close()

    speaker.hang_up()

    assert speaker.receive() == []
