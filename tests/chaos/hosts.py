"""Supervisors at work, each behind a proxy of its own; on a host of its own if asked.

A host here is a pid namespace: what is in it is out of the others' sight and reach, as
on another machine. So a rescuer cannot do the killing.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil

from tests.integration.tools import SUPERVISED, title_of, wait_until

from .proxy import Proxy

ROOT = Path(__file__).parents[2]
OWN_HOST = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

_SCHEMES = {
    "django.db.backends.postgresql": "postgresql://",
    "django.db.backends.mysql": "mysql://",
    "django.db.backends.sqlite3": "sqlite://",
}
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def may_have_hosts():
    """Is a pid namespace permitted here?"""
    try:
        return subprocess.run([*OWN_HOST, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


class Host:
    """One `process_tasks`, which is started again when it is gone."""

    def __init__(self, number, command, environment, proxy, folder):
        self.number, self.proxy = number, proxy
        self._command, self._folder = command, folder
        self._mark = uuid.uuid4().hex
        self._environment = environment | {SUPERVISED: self._mark}
        self._logs = 0
        self.names = set()  # (place, pid) of each supervisor that it has had
        self.start()

    def start(self):
        self._logs += 1
        path = self._folder / f"supervisor-{self.number}-{self._logs}.log"
        with path.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.supervisor = psutil.Process(self.process.pid)
        if self._command[0] == OWN_HOST[0]:
            (self.supervisor,) = wait_until(self.supervisor.children)
        self.name = _name(self.supervisor.pid)
        self.names.add(self.name)

    @property
    def is_alive(self):
        return self.process.poll() is None

    def signal(self, number):
        with contextlib.suppress(psutil.NoSuchProcess):
            self.supervisor.send_signal(number)

    def processes(self):
        """Return every living process of it and of its tasks, with its title."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(SUPERVISED) == self._mark:
                    found.append((process, title_of(process)))
        return found


class Hosts:
    """Some of them, on one database."""

    def __init__(self, number, settings, folder, options, lease, *, apart, upstream):
        """`apart`: each in a pid namespace of its own.

        `settings` are the database's; `upstream` is where its proxies lead to, or None.
        """
        command = [sys.executable, "-m", "tests.integration.run_process_tasks"]
        command = [*(OWN_HOST if apart else ()), *command, *map(str, options)]
        self._all = []
        for one in range(number):
            proxy, seen = None, dict(settings)
            if upstream is not None:
                proxy = Proxy(upstream)
                seen |= {"HOST": "127.0.0.1", "PORT": str(proxy.port)}
            environment = os.environ | _environment(seen, folder, lease)
            self._all.append(Host(one, command, environment, proxy, folder))

    def __iter__(self):
        return iter(self._all)

    def alive(self):
        return [host for host in self if host.is_alive]

    def revive(self):
        """Start those again that are gone."""
        for host in self:
            if not host.is_alive:
                host.start()

    def processes(self):
        """Return every living process, with its title and its host."""
        return [
            (process, title, host)
            for host in self
            for process, title in host.processes()
        ]

    def of(self, place, pid):
        """Return the host whose supervisor has, or had, this name."""
        return next((host for host in self if (place, pid) in host.names), None)

    def proxies(self):
        return [host.proxy for host in self if host.proxy is not None]

    def stop(self, patience=60.0):
        """Ask them to stop, and kill what has not within so many seconds."""
        for host in self.alive():
            host.signal(signal.SIGTERM)
        give_up_at = time.monotonic() + patience
        for host in self:
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.process.wait(max(0.1, give_up_at - time.monotonic()))
            if host.is_alive:
                host.process.kill()
                host.process.wait()

    def end(self):
        """Stop them and leave nothing, not what is frozen when a run is broken off."""
        self.stop()
        for process, _, _ in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for proxy in self.proxies():
            proxy.close()


def _environment(settings, folder, lease):
    names = ("NAME", "HOST", "PORT", "USER", "PASSWORD")
    where = {name: str(settings.get(name, "")) for name in names}
    test_settings = {
        "BACKGROUND_TASK_LEASE": lease,
        "BACKGROUND_TASK_GRACE": 0.5,
        "BACKGROUND_TASK_DRAIN_TIMEOUT": 1.0,
        "LOGGING": {"version": 1},
    }
    return {
        "TEST_DATABASE_URL": _SCHEMES[settings["ENGINE"]],
        "TEST_FOLDER": str(folder),
        "TEST_DATABASES": json.dumps({"default": where}),
        "TEST_SETTINGS": ";".join(
            f"{key}={json.dumps(value)}" for key, value in test_settings.items()
        ),
    }


def _name(pid):
    """Return how a process of this pid calls its place and itself, in its namespace."""
    boot_id = Path(_BOOT_ID).read_text().strip()
    place = f"{boot_id}:{os.stat(f'/proc/{pid}/ns/pid').st_ino}:{os.geteuid()}"
    status = Path(f"/proc/{pid}/status").read_text()
    (inner,) = [line for line in status.splitlines() if line.startswith("NSpid:")]
    return place, int(inner.split()[-1])
