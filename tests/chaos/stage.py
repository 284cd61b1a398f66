"""A database of one's own, and hosts at work on it."""

import contextlib

from django.core.management import call_command

from . import world
from .hosts import Hosts
from .proxy import upstream


@contextlib.contextmanager
def stage(database, folder, number, options, lease, *, apart):
    """Yield settings, a server or a small disk or None, and so many hosts at work."""
    with contextlib.ExitStack() as stack:
        settings, breakable = stack.enter_context(world.database(database, folder))
        stack.enter_context(world.default_database(settings))
        call_command("migrate", verbosity=0)
        world.keep_ledger()
        way = None if database == "sqlite" else upstream(settings)
        hosts = Hosts(
            number, settings, folder, options, lease, apart=apart, upstream=way
        )
        stack.callback(hosts.end)
        yield settings, breakable, hosts
