"""What goes wrong, and when, as a seed has it; then how it is done, and undone."""

import contextlib
import random
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass

import psutil
from django.db import connections

from .checker import Strike
from .world import now

# How often each kind of fault is picked, beside the others.
EVERYWHERE = {
    "kill supervisor": 3,
    "kill bookkeeper": 3,
    "kill launcher": 3,
    "kill task": 4,
    "freeze supervisor": 2,
    "freeze bookkeeper": 3,
    "freeze launcher": 2,
    "freeze task": 5,
    "drain": 2,
    "rolling restart": 3,
}
BY_PROXY = {
    "cut": 3,
    "blackhole": 3,
    "delay": 3,
    "refuse": 2,
    "cut in commit": 3,
}
OF_A_SERVER = {"stop fast": 2, "stop immediate": 2}
OF_A_DISK = {"disk full": 3}
_OF_ALL = 0.25  # of the faults by a proxy: those that befall every host at once


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. `which` picks among those that it may happen to."""

    at: float  # seconds after the beginning
    kind: str
    which: float  # from 0 to 1
    lasts: float  # seconds, of what is undone afterwards


def schedule(seed, seconds, kinds, lease, pace):
    """Return faults for so many seconds, about one every `pace` seconds.

    What freezes and blackholes lasts up to twice the lease, so that faults overlap.
    """
    dice = random.Random(seed)
    faults, at = [], dice.uniform(0.5, 2.0)
    names, weights = list(kinds), list(kinds.values())
    while at < seconds:
        (kind,) = dice.choices(names, weights)
        faults.append(Fault(at, kind, dice.random(), dice.uniform(0.3, 2.0) * lease))
        at += dice.uniform(0.5, 1.5) * pace
    return faults


class Nemesis:
    """Does what the schedule says to hosts and to what holds the database."""

    def __init__(self, hosts, breakable, settings):
        """`breakable` is a server, a small disk, or None."""
        self._hosts, self._breakable = hosts, breakable
        self._database = settings["NAME"]
        self.strikes = []
        self._undo = []  # (when, what)
        self._rolling = None  # a thread

    @property
    def kinds(self):
        """What can go wrong here, with its weight."""
        kinds = dict(EVERYWHERE)
        if self._hosts.proxies():
            kinds |= BY_PROXY
        if hasattr(self._breakable, "get_pid"):
            kinds |= OF_A_SERVER
        elif self._breakable is not None:
            kinds |= OF_A_DISK
        return kinds

    def do(self, fault):
        """Do it; return whether there was something that it could be done to."""
        kind, _, whom = fault.kind.partition(" ")
        match kind:
            case "kill" | "freeze":
                return self._signal(kind, whom, fault)
            case "drain":
                return self._drain(fault)
            case "rolling":
                return self._roll(fault)
            case "stop":
                return self._stop_server(whom, fault)
            case "disk":
                return self._fill(fault)
            case _:
                return self._by_proxy(fault)

    def undo_what_is_due(self, *, all_of_it=False):
        """Wake, mend, empty and start again what was broken for long enough."""
        moment = time.monotonic()
        due = [one for one in self._undo if all_of_it or one[0] <= moment]
        self._undo = [one for one in self._undo if one not in due]
        for _, what in due:
            what()

    def calm(self):
        """Mend everything, and break nothing more."""
        self.undo_what_is_due(all_of_it=True)
        for proxy in self._hosts.proxies():
            proxy.calm()
        if self._rolling is not None:
            self._rolling.join()

    def _later(self, seconds, what):
        self._undo.append((time.monotonic() + seconds, what))

    def _strike(self, fault, host, lasts=0.0):
        """Note whom it befell; None: all of them."""
        number = None if host is None else host.number
        self.strikes.append(Strike(fault.kind, number, now(), now() + lasts))

    def _signal(self, kind, whom, fault):
        found = list(self._whom(whom))
        if not found:
            return False
        process, host = found[int(fault.which * len(found))]
        frozen = kind == "freeze"
        try:
            process.send_signal(signal.SIGSTOP if frozen else signal.SIGKILL)
        except psutil.NoSuchProcess:
            return False
        self._strike(fault, host, fault.lasts if frozen else 0.0)
        if frozen:
            self._later(fault.lasts, lambda: _wake(process))
        return True

    def _whom(self, whom):
        """Yield each living process of a kind, with its host."""
        if whom == "supervisor":
            yield from ((host.supervisor, host) for host in self._hosts.alive())
            return
        name = {"task": "background_task: task ", "launcher": " launcher ("}
        wanted = name.get(whom, f"background_task: {whom}")
        for process, title, host in self._hosts.processes():
            if wanted in title:
                yield process, host

    def _pick(self, fault):
        """Return a host that is alive, or None."""
        alive = self._hosts.alive()
        return alive[int(fault.which * len(alive))] if alive else None

    def _drain(self, fault):
        if (host := self._pick(fault)) is None:
            return False
        host.signal(signal.SIGTERM)
        self._strike(fault, host)
        return True

    def _roll(self, fault):
        """Restart one after the other, as a deploy does."""
        if self._rolling is not None and self._rolling.is_alive():
            return False
        self._strike(fault, None)
        self._rolling = threading.Thread(target=self._restart_each, daemon=True)
        self._rolling.start()
        return True

    def _restart_each(self):
        for host in self._hosts:
            process = host.process
            host.signal(signal.SIGTERM)
            give_up_at = time.monotonic() + 20
            while host.process is process and time.monotonic() < give_up_at:
                time.sleep(0.1)  # until somebody has revived it
            time.sleep(1)

    def _stop_server(self, how, fault):
        if any(what == self._start_server for _, what in self._undo):
            return False
        self._strike(fault, None, fault.lasts)
        pid = self._breakable.get_pid()
        connections["default"].close()
        number = signal.SIGINT if how == "fast" else signal.SIGQUIT
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).send_signal(number)
            with contextlib.suppress(psutil.TimeoutExpired):
                psutil.Process(pid).wait(10)
        self._later(fault.lasts, self._start_server)
        return True

    def _start_server(self):
        self._breakable.ensure_postgres_running()

    def _fill(self, fault):
        """Have the next write that needs room find none, by anybody."""
        if any(what == self._breakable.clear for _, what in self._undo):
            return False
        self._strike(fault, None, fault.lasts)
        self._breakable.fill()
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(
                sqlite3.connect(self._database, timeout=2)
            ) as connection,
        ):  # the log's old room would do for a while
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._breakable.fill()
        self._later(fault.lasts, self._breakable.clear)
        return True

    def _by_proxy(self, fault):
        host = None if fault.which < _OF_ALL else self._pick(fault)
        proxies = self._hosts.proxies() if host is None else [host.proxy]
        self._strike(fault, host, 0.0 if fault.kind == "cut" else fault.lasts)
        for proxy in proxies:
            _break(proxy, fault)
            if fault.kind != "cut":
                self._later(fault.lasts, proxy.calm)
        return True


def _break(proxy, fault):
    match fault.kind:
        case "cut":
            proxy.cut()
        case "blackhole":
            proxy.blackholes = True
        case "delay":
            proxy.delay = 0.2
        case "refuse":
            proxy.refuses = True
            proxy.cut()
        case "cut in commit":
            proxy.cuts_commits = True


def _wake(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGCONT)
