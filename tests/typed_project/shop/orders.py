"""The calls: schedule forms and reserved keywords; and the questions to the rows."""

from datetime import date, datetime, timedelta
from typing import assert_type

from django.utils import timezone

from background_task.models import CompletedTask, Task
from background_task.tasks import TaskSchedule, tasks

from .models import Order
from .tasks import ask_for_a_review, send_receipt

# Upstream's ways to say when.
assert_type(send_receipt(7), Task | None)
send_receipt(7, schedule=None)
send_receipt(7, schedule=60)
send_receipt(7, schedule=0.5)
send_receipt(7, schedule=timedelta(hours=1))
send_receipt(7, schedule=timezone.now())
send_receipt(7, schedule={"run_at": timezone.now(), "priority": 1})
send_receipt(7, schedule=TaskSchedule(run_at=60, action=TaskSchedule.CHECK_EXISTING))

send_receipt(7, schedule="tomorrow")  # type: ignore[arg-type]
send_receipt(7, schedule=date(2030, 1, 1))  # type: ignore[arg-type]
TaskSchedule(run_at="tomorrow")  # type: ignore[arg-type]


def place(order: Order) -> None:
    # Whatever is not reserved is the function's, and may be anything.
    task = send_receipt(
        order.pk,
        copies=2,
        schedule=60,
        priority=3,
        queue=None,
        verbose_name=f"Receipt of {order}",
        creator=order,
        repeat=Task.DAILY,
        repeat_until=datetime(2030, 1, 1),
        remove_existing_tasks=True,
    )
    if task is not None:
        order.receipt = task
        order.save()

    send_receipt(7, priority="high")  # type: ignore[arg-type]
    send_receipt(7, priority=None)  # type: ignore[arg-type]
    send_receipt(7, queue=1)  # type: ignore[arg-type]
    send_receipt(7, verbose_name=b"receipt")  # type: ignore[arg-type]
    send_receipt(7, creator="ann")  # type: ignore[arg-type]
    send_receipt(7, repeat=timedelta(days=1))  # type: ignore[arg-type]
    send_receipt(7, repeat_until=60)  # type: ignore[arg-type]
    send_receipt(7, remove_existing_tasks="yes")  # type: ignore[arg-type]


def look(order: Order) -> str:
    now = timezone.now()
    waiting = Task.objects.find_available("mail").unlocked(now).created_by(order)
    assert_type(waiting.first(), Task | None)
    assert_type(Task.objects.locked(now).count(), int)
    assert_type(Task.objects.failed().get(), Task)
    assert_type(Task.objects.filter(queue="mail").get(), Task)
    assert_type(Task.objects.get_task("shop.ask", [7]).exists(), bool)
    assert_type(Task.objects.drop_task("shop.ask", [7]), tuple[int, dict[str, int]])
    failed = CompletedTask.objects.created_by(order).failed(within=timedelta(days=1))
    assert_type(failed.get(), CompletedTask)
    assert_type(CompletedTask.objects.succeeded().count(), int)

    task = Task.objects.new_task(ask_for_a_review.name, [7], run_at=now)
    assert_type(task.run_at, datetime)
    assert_type(task.lock("me"), Task | None)
    args, kwargs = task.params()
    assert_type(tasks.run_next_task("mail"), bool)
    return f"{len(args)} {sorted(kwargs)} {task.last_error}"
