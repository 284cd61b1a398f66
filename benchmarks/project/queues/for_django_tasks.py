"""django-tasks-db, which wants functions of its own."""

try:
    from django.tasks import task
except ImportError:  # before Django 6.0
    from django_tasks import task

from benchmarks.project import work


@task
def noop(number: int) -> None:
    work.noop(number)


@task
def orm(number: int) -> None:
    work.orm(number)


@task
def hold(number: int) -> None:
    work.hold(number)


def put(kind: str, number: int) -> None:
    {"noop": noop, "orm": orm, "hold": hold}[kind].enqueue(number)
