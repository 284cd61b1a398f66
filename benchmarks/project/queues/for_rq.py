"""RQ; as a script, one of its workers, which forks for every job.

The worker sets Django up before it forks, as django-rq does.
"""

import redis
import rq
from django.conf import settings

from benchmarks.project import work

_NAME = "background-task-bench"


def _queue() -> rq.Queue:
    return rq.Queue(_NAME, connection=redis.Redis.from_url(settings.BENCH_REDIS))


def put(kind: str, number: int) -> None:
    _QUEUE.enqueue(getattr(work, kind), number)


_QUEUE = _queue()

if __name__ == "__main__":
    import django

    django.setup()
    rq.Worker([_queue()], connection=_queue().connection).work(logging_level="WARNING")
