"""The decorator, bare and with arguments."""

from datetime import timedelta
from typing import assert_type

from background_task import background
from background_task.exceptions import InvalidTaskError
from background_task.tasks import TaskProxy, TaskSchedule


@background
def send_receipt(order_id: int, *, copies: int = 1) -> str:
    if copies < 1:
        raise InvalidTaskError("no copies", errors={"copies": copies})
    return f"{copies} x {order_id}"


@background(
    name="shop.ask",
    schedule=timedelta(days=1),
    queue="mail",
    remove_existing_tasks=True,
    max_run_time=60.5,
    memory_limit="512M",
)
def ask_for_a_review(order_id: int) -> None: ...


@background()
async def poll(url: str) -> bytes:
    return url.encode()


@background(schedule={"run_at": 60, "priority": 5, "action": TaskSchedule.SCHEDULE})
def urgent() -> None: ...


@background(schedule="tomorrow")  # type: ignore[call-overload, untyped-decorator]
def never() -> None: ...


@background(quue="mail")  # type: ignore[call-overload, untyped-decorator]
def misspelt() -> None: ...


# The function's own parameters and what it returns are kept by `now`.
assert_type(send_receipt.now(7), str)
assert_type(send_receipt.now(7, copies=2), str)
assert_type(send_receipt.task_function(7), str)
assert_type(urgent, TaskProxy[[], None])
ask_for_a_review.now(order_id=7)

send_receipt.now("7")  # type: ignore[arg-type]
send_receipt.now()  # type: ignore[call-arg]
send_receipt.now(7, 2)  # type: ignore[call-arg]
send_receipt.now(7, copies="two")  # type: ignore[arg-type]
send_receipt.now(7, schedule=60)  # type: ignore[call-arg]


async def poll_here() -> None:
    assert_type(await poll.now("/"), bytes)
    await poll.now(b"/")  # type: ignore[arg-type]
