"""Tasks that tell a journal outside of the database what becomes of them."""

import os
import time

from background_task import background, current_task
from background_task.exceptions import Stopped

BEAT = 0.05  # seconds between two signs of life


def write(journal, event, label):
    """Append one line, whole, whoever else writes at the same time."""
    moment = time.clock_gettime(time.CLOCK_BOOTTIME)
    it = current_task
    line = f"{event} {label} {it.id} {it.attempt} {it.claim} {os.getpid()} {moment}\n"
    fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def work(journal, label, seconds):
    """Begin, give signs of life, and end."""
    write(journal, "begin", label)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, BEAT))
        write(journal, "alive", label)
    write(journal, "end", label)


@background(max_attempts=50, backoff=0.2)
def steady(journal, label, seconds):
    work(journal, label, seconds)


@background(max_attempts=3, backoff=0.2)
def failing(journal, label, seconds):
    """Fail at every try: for good after the third that is counted."""
    work(journal, label, seconds)
    raise ValueError(label)


@background(max_attempts=50, backoff=0.2)
def link(journal, label, seconds):
    """One link of a chain: the label names the chain."""
    work(journal, label, seconds)


@background(max_attempts=50, backoff=0.2)
def until_told(journal, label, told, deaf):
    """Give signs of life until there is a file; `deaf`: whoever asks to stop."""
    write(journal, "begin", label)
    while not os.path.exists(told):
        try:
            time.sleep(0.01)
            write(journal, "alive", label)
        except Stopped:
            if not deaf:
                raise
    write(journal, "end", label)


@background
def visit(journal, label):
    """Ask the database once, by a connection of the task's own."""
    from django.contrib.auth.models import User

    User.objects.exists()
    write(journal, "end", label)


@background
def stay(journal, label, told):
    """Ask the database, and stay until there is a file."""
    from django.contrib.auth.models import User

    User.objects.exists()
    write(journal, "begin", label)
    while not os.path.exists(told):
        time.sleep(0.01)
    write(journal, "end", label)


@background
def noop(journal, label):
    write(journal, "end", label)
