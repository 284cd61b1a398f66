"""Every one of the seven signals is written down, in the order of arrival."""

from django.conf import settings
from django.dispatch import receiver

from background_task import signals
from background_task.models import CompletedTask, Task
from background_task.tasks import DBTaskRunner


def hear(text):
    with open(settings.HEARD, "a", encoding="utf-8") as heard:
        heard.write(f"{text}\n")


@receiver(signals.task_created, sender=DBTaskRunner)
def created(sender, task, **kwargs):
    hear(f"task_created {task}")


@receiver(signals.task_started, sender=Task)
def started(sender, **kwargs):
    hear("task_started")


@receiver(signals.task_successful, sender=Task)
def successful(sender, task_id, completed_task, **kwargs):
    assert isinstance(completed_task, CompletedTask) and task_id
    hear(f"task_successful {completed_task.task_name}")


@receiver(signals.task_error)
def error(sender, task, **kwargs):
    hear(f"task_error {sender.__name__} {task}")


@receiver(signals.task_rescheduled, sender=Task)
def rescheduled(sender, task, **kwargs):
    hear(f"task_rescheduled {task} attempts={task.attempts}")


@receiver(signals.task_failed, sender=Task)
def failed(sender, task_id, completed_task, **kwargs):
    assert completed_task.failed_at and task_id
    hear(f"task_failed {completed_task.task_name}")


@receiver(signals.task_finished, sender=Task)
def finished(sender, **kwargs):
    hear("task_finished")
