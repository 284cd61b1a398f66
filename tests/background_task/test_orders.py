"""What bookkeepers read of what people ask, and how they settle the rest."""

import time
from datetime import timedelta

from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from background_task import control, orders
from background_task.models import CompletedTask, Control, Runner, Task
from background_task.orders import OrderBook
from tests.app import misbehaving

from .tools import inserts, locked, make_runner, make_unreadable


def settled(*running, book=None):
    """Settle all there is, for a runner that runs these; return what is cancelled."""
    running = {task.pk for task in running}
    entries = orders.settle((book or OrderBook("r")).read(running), running)
    return [entry.task.pk for entry in entries]


class ReadTests(TestCase):
    def test_orders_are_of_the_runner_and_of_what_it_runs(self):
        mine, others = locked(misbehaving.fail("a")), locked(misbehaving.fail("b"), "s")
        for task in (mine, others):
            control.stop([task.pk], "ann")
            control.ask_output(task.pk, "ann")
            control.ask_stack(task.pk, "ann")
        control.pause("mail", "ann")
        make_runner("r")
        control.drain("r", "ann")

        with self.assertNumQueries(1):
            ours = OrderBook("r").read({mine.pk})
        theirs = OrderBook("s").read({others.pk})

        self.assertEqual(ours.stop, {mine.pk: "ann"})
        self.assertEqual((ours.output, ours.stack), ({mine.pk}, {mine.pk}))
        self.assertEqual((ours.drain_by, theirs.drain_by), ("ann", None))
        self.assertEqual((ours.paused, theirs.paused), ({"mail"}, {"mail"}))
        self.assertTrue(ours.for_others and theirs.for_others)

    def test_a_stack_is_asked_for_until_it_is_told(self):
        task = locked(misbehaving.fail("a"))
        control.ask_stack(task.pk, "ann")

        orders.tell("stack", task.pk, {"text": "here"})

        self.assertEqual(OrderBook("r").read({task.pk}).stack, set())
        self.assertEqual(control.answer("stack", task.pk), {"text": "here"})

    def test_what_nobody_waits_for_any_more_is_stale_by_the_readers_own_clock(self):
        """Hosts' clocks differ: the moment that is written says nothing."""
        task = locked(misbehaving.fail("a"))
        control.ask_output(task.pk, "ann")
        Control.objects.update(at=timezone.now() - timedelta(hours=1))
        book = OrderBook("r")
        self.assertEqual(book.read({task.pk}).output, {task.pk})

        elapse(book)

        self.assertEqual(book.read({task.pk}).output, set())
        self.assertEqual(settled(task, book=book), [])
        self.assertFalse(Control.objects.exists())

    def test_a_moment_that_cannot_be_read_keeps_nothing_from_being_heard(self):
        task = locked(misbehaving.fail("a"))
        control.ask_output(task.pk, "ann")
        make_unreadable(Control.objects.get(), "at")
        control.pause("mail", "ann")

        read = OrderBook("r").read({task.pk})

        self.assertEqual((read.paused, read.output), ({"mail"}, {task.pk}))

    def test_what_is_asked_again_is_not_stale(self):
        task = locked(misbehaving.fail("a"))
        control.ask_output(task.pk, "ann")
        book = OrderBook("r")
        book.read({task.pk})
        elapse(book)
        stale = book.read({task.pk})

        control.ask_output(task.pk, "ann")

        orders.settle(stale, {task.pk})
        self.assertEqual(book.read({task.pk}).output, {task.pk})


class SettleTests(TestCase):
    def test_what_is_pointless_is_forgotten(self):
        make_runner("r")
        control.drain("r", "ann")
        Runner.objects.all().delete()
        for target in ("77", "x", "9" * 30):
            ask_to_stop(target)

        self.assertEqual(settled(), [])

        self.assertFalse(Control.objects.exists())

    def test_what_others_are_to_do_is_left_to_them(self):
        make_runner("s")
        control.drain("s", "ann")
        theirs, ours = locked(misbehaving.fail("a"), "s"), locked(misbehaving.fail("b"))
        control.stop([theirs.pk, ours.pk], "ann")

        self.assertEqual(settled(ours), [])

        self.assertEqual(Control.objects.count(), 3)

    def test_what_waits_is_cancelled(self):
        first, second = misbehaving.fail("a"), misbehaving.fail("b", repeat=60)
        ask_to_stop(first.pk, "ann")
        ask_to_stop(second.pk, "bob")

        self.assertEqual(settled(), [first.pk, second.pk])

        errors = CompletedTask.objects.order_by("task_id").values_list("last_error")
        self.assertEqual([*errors], [("Cancelled by ann",), ("Cancelled by bob",)])
        self.assertEqual(Task.objects.get().repeat, 60)  # the chain goes on
        self.assertFalse(Control.objects.exists())

    def test_one_that_is_refused_stops_no_other(self):
        first, bad, last = (misbehaving.fail(label) for label in ("a", "b", "c"))
        for task in (first, bad, last):
            ask_to_stop(task.pk, "ann")
        make_unreadable(bad)

        with self.assertLogs("background_task.orders", "ERROR") as logs:
            cancelled = settled()

        self.assertEqual(cancelled, [first.pk, last.pk])
        self.assertIn(f"Task {bad.pk}, which ann wants stopped", logs.output[0])
        self.assertFalse(Control.objects.exists())

    def test_what_is_claimed_meanwhile_is_still_to_be_stopped(self):
        """Another runner claims it between the look at it and the cancelling."""
        task = misbehaving.fail("a")
        ask_to_stop(task.pk)

        def claim_after(execute, sql, params, many, context):
            result = execute(sql, params, many, context)
            if "locked_by" in sql and sql.startswith("SELECT"):
                rows = Task.objects.filter(pk=task.pk, locked_by=None)
                rows.update(locked_by="s", locked_at=timezone.now())
            return result

        with connection.execute_wrapper(claim_after):
            self.assertEqual(settled(), [])

        self.assertEqual(Control.objects.get().target, str(task.pk))
        self.assertTrue(Task.objects.filter(pk=task.pk, locked_by="s").exists())

    def test_a_thousand_are_settled_a_hundred_at_a_time(self):
        tasks = [misbehaving.fail(str(number)) for number in range(150)]
        Control.objects.bulk_create(
            Control(verb="stop", target=str(task.pk), by="ann", at=timezone.now())
            for task in tasks
        )
        book = OrderBook("r")
        with CaptureQueriesContext(connection) as queries:
            first = settled(book=book)

        self.assertEqual(len(first), 100)
        self.assertLess(len(queries), 30 + inserts(100))
        self.assertEqual(len(settled(book=book)), 50)
        self.assertFalse(Control.objects.exists() or Task.objects.exists())


def ask_to_stop(target, by="ann"):
    Control.objects.create(verb="stop", target=str(target), by=by, at=timezone.now())


def elapse(book):
    """Let so much time pass since the first look that nobody waits any more."""
    book._since = {row: time.monotonic() - 16 for row in book._since}
