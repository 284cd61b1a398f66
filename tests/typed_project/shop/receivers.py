"""Receivers of the signals."""

from typing import Any

from django.dispatch import receiver

from background_task.models import CompletedTask, Task
from background_task.signals import task_created, task_error, task_failed


@receiver(task_created)
def log_created(sender: type[Any], task: Task, **named: Any) -> None:
    print(task.task_name, task.run_at)


@receiver(task_error)
def log_error(sender: type[BaseException], task: Task, **named: Any) -> None:
    print(sender, task.attempts)


@receiver(task_failed)
def log_failed(
    sender: type[Task], task_id: int, completed_task: CompletedTask, **named: Any
) -> None:
    print(task_id, completed_task.failed_at)
