"""The helpers for tests."""

from datetime import timedelta
from typing import assert_type

from django.test import TestCase
from django.utils import timezone

from background_task.models import Task
from background_task.testing import CapturedTasks, capture_tasks, run_due_tasks

from .tasks import ask_for_a_review, send_receipt


class ReceiptTests(TestCase):
    def test_receipt(self) -> None:
        with capture_tasks() as scheduled:
            send_receipt(7, copies=2)
        assert_type(scheduled, CapturedTasks)
        assert_type(scheduled[0], Task)
        assert_type(scheduled.assert_scheduled(send_receipt, 7, copies=2), Task)

        assert_type(run_due_tasks(), int)
        run_due_tasks("mail", until=timezone.now() + timedelta(days=1), limit=5)

        # The function's own parameters are asked for, as by `now`.
        scheduled.assert_scheduled(send_receipt)  # type: ignore[call-arg]
        scheduled.assert_scheduled(send_receipt, "7")  # type: ignore[arg-type]
        scheduled.assert_scheduled(ask_for_a_review.now, 7)  # type: ignore[arg-type]
        run_due_tasks(until=60)  # type: ignore[arg-type]
