"""Celery, on Redis."""

from celery import Celery
from django.conf import settings

from benchmarks.project import work

app = Celery("bench", broker=settings.BENCH_REDIS)
app.conf.update(
    broker_transport_options={"global_keyprefix": "background-task-bench:"},
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
)
_TASKS = {
    kind: app.task(name=kind)(getattr(work, kind)) for kind in ("noop", "orm", "hold")
}


def put(kind: str, number: int) -> None:
    _TASKS[kind].delay(number)
