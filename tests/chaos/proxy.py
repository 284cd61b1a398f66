"""A loopback proxy in front of a database, which drops, delays, blackholes and cuts."""

import contextlib
import random
import select
import socket
import threading
import time

_CHUNK = 65_536


def upstream(settings):
    """Return where the database of these settings listens, as a `Proxy` takes it."""
    host, port = settings.get("HOST", ""), settings.get("PORT")
    if host.startswith("/"):  # a folder with PostgreSQL's socket
        return f"{host}/.s.PGSQL.{port or 5432}"
    return int(port or (3306 if settings["ENGINE"].endswith("mysql") else 5432))


class Proxy:
    """Hands everything on, unless it is told to do worse. Threads, one for each way."""

    def __init__(self, upstream):
        """`upstream` is a port of 127.0.0.1, or the path of a socket."""
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs = set()
        self._lock = threading.Lock()
        self._closing = False
        self.refuses = self.blackholes = self.cuts_commits = False
        self.strands_commits = False
        self.blackholes_at_commit = False  # which is not handed on
        self.delay = 0.0  # seconds, for every piece
        self._stranded = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def calm(self):
        """Hand everything on again; what was blackholed is cut, and comes back anew."""
        was_black, self.blackholes = self.blackholes, False
        self.refuses = self.cuts_commits = False
        self.strands_commits = self.blackholes_at_commit = False
        self.delay = 0.0
        if was_black:
            self.cut()

    def cut(self):
        """Cut every connection, in the middle of whatever it is."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def close(self):
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for far in self._stranded:
            far.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self):
        while not self._closing:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                near.close()
                continue
            try:
                far = self._connect()
            except OSError:
                near.close()
                continue
            pair = near, far
            with self._lock:
                self._pairs.add(pair)
            thread = threading.Thread(target=self._relay, args=(pair,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connect(self):
        if isinstance(self._upstream, int):
            return socket.create_connection(("127.0.0.1", self._upstream))
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(self._upstream)
        except OSError:
            far.close()
            raise
        return far

    def _relay(self, pair):
        near, far = pair
        try:
            while True:
                ready, _, _ = select.select(pair, [], [], 0.5)
                if self.blackholes:
                    time.sleep(0.05)  # accepts, and never answers
                    continue
                for one in ready:
                    data = one.recv(_CHUNK)
                    if not data:
                        return
                    if self.delay:
                        time.sleep(random.uniform(0, self.delay))
                    if one is near and self.strands_commits and b"COMMIT" in data:
                        # It is lost, and the server does not hear that we are.
                        self._stranded.append(far)
                        return
                    if one is near and self.blackholes_at_commit and b"COMMIT" in data:
                        self.blackholes = True  # the transaction stays open
                        break
                    (far if one is near else near).sendall(data)
                    if one is near and self.cuts_commits and b"COMMIT" in data:
                        return  # it is done, and nobody is told
        except (OSError, ValueError):
            return
        finally:
            self._end(pair)

    def _end(self, pair):
        with self._lock:
            self._pairs.discard(pair)
        for one in set(pair).difference(self._stranded):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
