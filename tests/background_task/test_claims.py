"""Which tasks a runner takes, and that nobody else does."""

import sys
import threading
import unittest
from collections import Counter
from contextlib import closing, contextmanager
from datetime import timedelta

from django.db import OperationalError, connection, connections, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from background_task import books, claims, leases
from background_task.models import Runner, Task
from background_task.served import EVERYTHING, Served

from .tools import make_runner, make_task

HOUR = timedelta(hours=1)
A, ALL = frozenset({"a"}), frozenset({"a", "b", "c", None})
ONLY_A = Served(A)


@contextmanager
def lenient(*columns):
    """Have these columns compared as MySQL and MariaDB do if nobody says otherwise."""
    if connection.vendor == "mysql":
        for column in columns:
            collate(column, "utf8mb4_general_ci")
    try:
        yield
    finally:
        Task.objects.all().delete()
        if connection.vendor == "mysql":
            for column in columns:
                collate(column, "utf8mb4_bin")


def collate(column, collation):
    null = "NULL" if Task._meta.get_field(column).null else "NOT NULL"
    with connection.cursor() as cursor:
        cursor.execute(
            f"ALTER TABLE background_task MODIFY {column} varchar(190) "
            f"CHARACTER SET utf8mb4 COLLATE {collation} {null}"
        )


def unquoted(sql):
    return sql.replace('"', "").replace("`", "")


class ClaimTestCase(TransactionTestCase):
    def claim(self, n=10, names=("job",), queues=(), runner="a-runner", excluded=()):
        served = Served(frozenset(queues), frozenset(excluded))
        with transaction.atomic():
            return claims.claim(runner, names, {served: n})

    def params(self, tasks):
        return [task.params()[0][0] for task in tasks]


class ClaimTests(ClaimTestCase):
    def setUp(self):
        leases.register(
            "a-runner", 600, host="here", place="boot:1", pid=1, pid_started=1
        )

    def test_a_claim_locks_the_row_and_names_the_try(self):
        make_task("job", (1,))
        before = timezone.now()

        (task,) = self.claim()

        row = Task.objects.get()
        self.assertEqual((row.pk, row.locked_by), (task.pk, "a-runner"))
        self.assertEqual(row.locked_at, task.locked_at)
        self.assertGreaterEqual(row.locked_at, before)
        self.assertIsNotNone(books.succeed(books.Claim.of(task)))

    def test_at_most_so_many_and_nothing_twice(self):
        for number in range(5):
            make_task("job", (number,))

        batches = [self.claim(2) for _ in range(4)]

        self.assertEqual(list(map(len, batches)), [2, 2, 1, 0])
        self.assertEqual(len({task.pk for batch in batches for task in batch}), 5)

    def test_the_urgent_come_first_and_then_the_earliest(self):
        now = timezone.now()
        for label, priority, minutes in (
            ("late", 0, 1),
            ("early", 0, 5),
            ("urgent", 7, 1),
            ("lazy", -3, 9),
        ):
            make_task(
                "job",
                (label,),
                priority=priority,
                run_at=now - timedelta(minutes=minutes),
            )

        self.assertEqual(self.params(self.claim()), ["urgent", "early", "late", "lazy"])

    @override_settings(BACKGROUND_TASK_PRIORITY_ORDERING="ASC")
    def test_priorities_may_be_as_nice(self):
        for priority in (5, -5, 0):
            make_task("job", (priority,), priority=priority)

        self.assertEqual(self.params(self.claim()), [-5, 0, 5])

    def test_names_that_are_not_known_are_left_alone(self):
        make_task("job", (1,))
        unknown = make_task("somebody.elses", (2,))

        self.assertEqual(self.params(self.claim()), [1])
        self.assertIsNone(Task.objects.get(pk=unknown.pk).locked_by)
        self.assertEqual(self.claim(names=()), [])

    def test_names_that_are_not_known_can_be_told_of(self):
        make_task("gone", queue="a")
        make_task("gone", queue="a")
        make_task("job", queue="a")
        make_task("elsewhere", queue="b")

        self.assertEqual(claims.unknown_names(("job",), ONLY_A), {"gone"})
        everywhere = claims.unknown_names(("job",), EVERYTHING)
        self.assertEqual(everywhere, {"gone", "elsewhere"})
        elsewhere = claims.unknown_names(("job",), EVERYTHING.but(["a"]))
        self.assertEqual(elsewhere, {"elsewhere"})

    def test_queues_that_nobody_has_used_can_be_told_of(self):
        make_task("job", queue="waiting")
        make_task("job", queue="done")
        books.succeed(books.Claim.of(*self.claim(queues=("done",))))

        unused = claims.unused_queues(["waiting", "done", "nosuch"])

        self.assertEqual(unused, {"nosuch"})

    def test_only_these_queues_or_every_queue_and_none(self):
        for queue in ("a", "b", "c", None):
            make_task("job", (queue,), queue=queue)

        self.assertEqual(sorted(self.params(self.claim(queues=("a", "b")))), ["a", "b"])
        self.assertEqual(
            sorted(map(str, self.params(self.claim(queues=())))), ["None", "c"]
        )

    def test_every_queue_but_these(self):
        for queue in ("a", "b", "c", None):
            make_task("job", (queue,), queue=queue)

        self.assertFalse(claims.may_be_due(("job",), Served(excluded=ALL)))
        self.assertEqual(self.params(self.claim(excluded=ALL)), [])
        self.assertEqual(self.params(self.claim(excluded=["b", "c", None])), ["a"])
        self.assertEqual(self.params(self.claim(excluded=["b", "c"])), [None])
        of_b = self.claim(queues=["b", "c"], excluded=["c", None])
        self.assertEqual(self.params(of_b), ["b"])

    def test_the_order_holds_across_what_is_not_excluded(self):
        for number, queue in enumerate(["a", None, "b", "c"] * 3):
            make_task("job", (number,), queue=queue, priority=number)

        claimed = self.params(self.claim(5, excluded=["b", "nosuch"]))

        self.assertEqual(claimed, [11, 9, 8, 7, 5])

    def test_a_flood_of_what_is_excluded_hides_nothing_and_costs_nothing(self):
        for others in (1, claims._QUEUES + 1):
            Task.objects.all().delete()
            Task.objects.bulk_create(
                Task(task_name="job", queue="a", priority=9, run_at=timezone.now())
                for _ in range(2 * claims._PASSED_BY)
            )
            for number in range(others):
                make_task("job", (number,), queue=f"b{number}")
            make_task("job", ("of none",), priority=-1)

            with CaptureQueriesContext(connection) as queries:
                claimed = self.params(self.claim(others + 1, excluded=["a"]))

            self.assertEqual(claimed, [*range(others), "of none"])
            self.assertLess(len(queries), 60)
            self.assertEqual(self.claim(excluded=["a"]), [])
            self.assertFalse(claims.may_be_due(("job",), Served(excluded=A)))
            without = Served(excluded=frozenset({"a", None}))
            self.assertFalse(claims.may_be_due(("job",), without))

    def test_some_of_each_kind_in_one_claim(self):
        for queue in ("a", "b", "c", None):
            for number in range(4):
                make_task("job", (f"{queue}{number}",), queue=queue)
        others = Served(frozenset({"b", "c"}))

        with transaction.atomic():
            claimed = claims.claim("a-runner", ["job"], {ONLY_A: 1, others: 3})

        queues = Counter(task.queue for task in claimed)
        self.assertEqual((queues.pop("a"), queues.total()), (1, 3))
        self.assertLessEqual(set(queues), {"b", "c"})

    def test_without_sizes_and_exclusions_no_statement_is_added(self):
        make_task("job", queue="a")

        with CaptureQueriesContext(connection) as queries:
            self.claim(1)

        # Savepoint or BEGIN aside: the lease, the priority, the task, the lock.
        said = [q["sql"] for q in queries if " background_task" in unquoted(q["sql"])]
        self.assertEqual(len(said), 4, said)
        self.assertFalse([sql for sql in said if "NOT (" in sql], said)

    def test_names_and_queues_are_meant_to_the_letter(self):
        with lenient("task_name", "queue"):
            for name, queue in (
                ("job", "Mail"),
                ("job", "mail "),
                ("Job", "mail"),
                ("job ", "mail"),
                ("JOB", None),
            ):
                make_task(name, (name, queue), queue=queue)
            make_task("job", ("it",), queue="mail", priority=-1)

            named = claims.unknown_names(("job",), EVERYTHING)
            served = [self.params(self.claim(1, queues=("mail",))) for _ in range(2)]
            of_queue = Task.objects.find_available("mail")
            names = set(of_queue.values_list("task_name", flat=True))
            rest = self.claim()

        # Of those that the collation takes for one, one is named.
        self.assertTrue(named)
        self.assertLessEqual(named, {"Job", "job ", "JOB"})
        self.assertEqual(served, [["it"], []])
        self.assertEqual(names, {"Job", "job "})
        self.assertEqual({task.task_name for task in rest}, {"job"})
        self.assertEqual({task.queue for task in rest}, {"Mail", "mail "})

    def test_what_is_not_due_held_or_failed_is_left_alone(self):
        make_task("job", ("later",), run_at=timezone.now() + HOUR)
        make_task("job", ("failed",), failed_at=timezone.now())
        make_task("job", ("held",)).lock("another-runner")
        make_task("job", ("pid",)).lock("4711")

        self.assertEqual(self.claim(), [])

    def test_a_lock_that_no_runner_protects_expires(self):
        long_ago = timezone.now() - 2 * HOUR
        make_runner("a-lasting-one", trusted_for=HOUR)
        make_runner("a-lapsed-one", trusted_for=-HOUR)
        for owner in ("4711", "a-lasting-one", "a-lapsed-one"):
            make_task("job", (owner,), locked_by=owner, locked_at=long_ago)

        with override_settings(MAX_RUN_TIME=3600):
            self.assertEqual(self.claim(), [])
            self.assertEqual(claims.free_expired(), 1)

        self.assertEqual(self.params(self.claim()), ["4711"])

    @unittest.skipUnless(connection.vendor == "sqlite", "others have types")
    def test_a_value_that_is_of_another_kind_stops_no_other_task(self):
        for column, value in (
            ("task_params", b"[[], {}]"),
            ("queue", b"mail"),
            ("priority", "high"),
            ("attempts", "many"),
            ("run_at", 5),
        ):
            with self.subTest(column), connection.cursor() as cursor:
                bad, good = make_task("job", ("bad",)), make_task("job", ("good",))
                update = f"UPDATE background_task SET {column} = %s WHERE id = %s"
                cursor.execute(update, [value, bad.pk])

                self.assertEqual([task.pk for task in self.claim()], [good.pk])

                found = Task.objects.filter(pk=bad.pk)
                error, failed_at = found.values_list("last_error", "failed_at")[0]
                self.assertIsNotNone(failed_at)
                self.assertIn("can't be read", error)

    def test_a_lock_may_last_for_longer_than_the_calendar(self):
        make_task("job", locked_by="4711", locked_at=timezone.now() - HOUR)

        for endless in (10**11, float(sys.maxsize)):
            with override_settings(MAX_RUN_TIME=endless):
                self.assertEqual(claims.free_expired(), 0)
                self.assertFalse(Task.objects.unlocked(timezone.now()).exists())

    def test_the_order_holds_across_queues(self):
        for queue, priority in (("a", 1), ("b", 2), ("a", 3), ("b", 0)):
            make_task("job", (priority,), queue=queue, priority=priority)

        claimed = self.params(self.claim(3, queues=("a", "b")))

        self.assertEqual(claimed, [3, 2, 1])
        self.assertEqual(Task.objects.filter(locked_by=None).get().priority, 0)

    def test_future_tasks_of_higher_priorities_are_stepped_over(self):
        for priority in range(1, 2 * claims._PRIORITIES):
            later = timezone.now() + HOUR
            make_task("job", ("later",), run_at=later, priority=priority)
        make_task("job", ("now",), priority=-5)
        make_task("job", ("sooner",), priority=-4)

        self.assertTrue(claims.may_be_due(("job",), EVERYTHING))
        self.assertEqual(self.params(self.claim(1)), ["sooner"])
        self.assertEqual(self.params(self.claim()), ["now"])
        self.assertFalse(claims.may_be_due(("job",), EVERYTHING))

    def test_a_few_unknown_names_in_front_change_no_order(self):
        for priority in range(6):
            make_task("gone", priority=priority)
            make_task("job", (priority,), priority=priority)

        self.assertEqual(self.params(self.claim()), [5, 4, 3, 2, 1, 0])

    def test_many_unknown_names_in_front_hide_nothing(self):
        now = timezone.now()
        Task.objects.bulk_create(
            Task(task_name="gone", task_params="[[], {}]", run_at=now - HOUR)
            for _ in range(claims._PASSED_BY + 1)
        )
        for label, priority in (("first", 0), ("last", -2), ("middle", -1)):
            make_task("job", (label,), priority=priority)

        with CaptureQueriesContext(connection) as queries:
            claimed = self.params(self.claim())

        self.assertEqual(claimed, ["first", "middle", "last"])
        self.assertLess(len(queries), 12)
        self.assertEqual(claims.unknown_names(("job",), EVERYTHING), {"gone"})

    def test_names_and_queues_are_the_same_to_the_letter_only(self):
        for name, queue in (("Job", "a"), ("job ", "a"), ("job", "A"), ("job", "a ")):
            make_task(name, queue=queue)
        make_task("job", ("mine",), queue="a")

        self.assertEqual(self.params(self.claim(queues=("a",))), ["mine"])

    def test_what_is_next_is_known_without_a_look_at_the_due(self):
        self.assertIsNone(claims.next_run_at(7200, [EVERYTHING]))
        make_task("job")
        soon = make_task("job", run_at=timezone.now() + HOUR)
        make_task("job", run_at=timezone.now() + 2 * HOUR)

        run_at = Task.objects.get(pk=soon.pk).run_at
        self.assertEqual(claims.next_run_at(3601, [EVERYTHING]), run_at)
        self.assertIsNone(claims.next_run_at(3000, [EVERYTHING]))

    def test_what_is_next_of_the_queues_that_are_served(self):
        now = timezone.now()
        runs = {
            queue: make_task("job", queue=queue, run_at=now + timedelta(minutes=n))
            for n, queue in enumerate(["a", None, "b"], 1)
        }
        moments = {
            queue: Task.objects.get(pk=it.pk).run_at for queue, it in runs.items()
        }
        for served, first in (
            ([ONLY_A], "a"),
            ([Served(frozenset({"b", "c"})), Served(frozenset({"d"}))], "b"),
            ([EVERYTHING.but(["a"])], None),
            ([EVERYTHING.but(["a", None])], "b"),
        ):
            self.assertEqual(claims.next_run_at(3600, served), moments[first])
        self.assertIsNone(claims.next_run_at(3600, [EVERYTHING.but(ALL)]))
        self.assertIsNone(claims.next_run_at(3600, []))

        Task.objects.bulk_create(
            Task(task_name="job", queue="c", run_at=now + timedelta(seconds=number))
            for number in range(1, claims._PLANNED + 1)
        )
        first = claims.next_run_at(3600, [Served(frozenset({"b"}))])
        self.assertEqual(first - now, timedelta(seconds=claims._PLANNED))

    def test_each_look_reads_one_index_in_its_order(self):
        for queue in (None, "a", "b"):
            make_task("gone", priority=2, queue=queue)
            later = timezone.now() + HOUR
            make_task("job", run_at=later, priority=1, queue=queue)
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in claims.SESSION.get(connection.vendor, ()):
                cursor.execute(statement.replace("SET", "SET LOCAL"))
            with CaptureQueriesContext(connection) as queries:
                claims.may_be_due(("job",), EVERYTHING)
                claims.may_be_due(("job",), ONLY_A)
                look = claims._Look(("job",), EVERYTHING, (), lock=False)
                look._of_each_name({}, set(), 1)
                claims.may_be_due(("job",), EVERYTHING.but(["a"]))
            plans = [self.plan(cursor, query["sql"]) for query in queries]

        self.assertGreater(len(plans), 14)
        for sql, plan in plans:
            # Of few rows PostgreSQL may think that the oldest index does as well.
            self.assertRegex(plan, "bgtask_waiting|PRIMARY|pkey|_priority_", sql)
            self.assertNotRegex(plan, "TEMP B-TREE|Sort|filesort|index_merge", sql)

    def plan(self, cursor, sql):
        """Return a statement with the plan that this database has for it."""
        explain = {"sqlite": "EXPLAIN QUERY PLAN"}.get(connection.vendor, "EXPLAIN")
        if connection.vendor == "mysql" and not connection.mysql_is_mariadb:
            explain = "EXPLAIN FORMAT=TRADITIONAL"  # MySQL 9 would draw a tree
        cursor.execute(f"{explain} {sql}")
        rows = cursor.fetchall()
        if connection.vendor == "mysql":  # the type and the key it uses, and remarks
            return sql, " ".join(f"{row[3]} {row[5]} {row[-1]}" for row in rows)
        return sql, " ".join(map(str, rows))

    def test_who_is_not_trusted_claims_nothing(self):
        make_task("job", (1,))
        leases.renew("a-runner", -1)

        for runner in ("a-runner", "nobody"):
            with self.assertRaises(leases.LeaseLost):
                self.claim(runner=runner)

        self.assertIsNone(Task.objects.get().locked_by)

    def test_two_claims_at_one_moment_are_two_tries(self):
        for number in range(2):
            make_task("job", (number,))

        (one,), (other,) = self.claim(1), self.claim(1)
        self.assertNotEqual(one.locked_at, other.locked_at)
        self.assertTrue(books.release(books.Claim.of(one)))

        again = self.claim(1)[0]

        self.assertEqual(again.pk, one.pk)
        self.assertGreater(again.locked_at, other.locked_at)
        self.assertFalse(books.release(books.Claim.of(one)))

    def test_the_statements_do_not_grow_with_the_batch(self):
        for number in range(30):
            make_task("job", (number,))

        with CaptureQueriesContext(connection) as few:
            self.claim(1)
        with CaptureQueriesContext(connection) as many:
            self.claim(25)

        self.assertEqual(len(few), len(many))
        self.assertLessEqual(len(many), 6)

    @override_settings(USE_TZ=False, TIME_ZONE="Asia/Karachi")
    def test_the_time_zone_does_not_matter(self):
        claims._last_claim = None  # of a process whose clock has no time zone
        self.addCleanup(setattr, claims, "_last_claim", None)
        make_task("job", (1,))
        make_task("job", ("later",), run_at=timezone.now() + HOUR)

        (task,) = self.claim()

        self.assertEqual(task.params()[0], [1])
        self.assertEqual(Task.objects.get(pk=task.pk).locked_at, task.locked_at)
        self.assertTrue(books.release(books.Claim.of(task)))


class ConcurrentClaimTests(TransactionTestCase):
    """Several runners, each with a connection of its own, as bookkeepers have."""

    def setUp(self):
        for number in range(4):
            self.register(f"runner-{number}")

    def register(self, name):
        leases.register(name, 600, host="here", place=name, pid=1, pid_started=1)

    def test_every_task_is_claimed_and_none_twice(self):
        for number in range(60):
            make_task("job", (number,))
        claimed, errors = {}, []
        start = threading.Barrier(4)

        def claim_all(runner):
            try:
                with closing(self.own_connection()):
                    start.wait(30)
                    claimed[runner] = self.claim_until_dry(runner)
            except Exception as error:
                errors.append(error)

        threads = [
            threading.Thread(target=claim_all, args=(f"runner-{number}",))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        self.assertEqual(errors, [])
        times = Counter(pk for tasks in claimed.values() for pk in tasks)
        self.assertEqual(set(times.values()), {1})
        self.assertEqual(len(times), 60)
        for runner, tasks in claimed.items():
            rows = Task.objects.filter(locked_by=runner)
            self.assertEqual(set(rows.values_list("pk", flat=True)), set(tasks))

    def own_connection(self):
        """Return this thread's connection, as the bookkeeper sets it up."""
        own = connections["default"]
        if own.vendor == "sqlite":
            options = {**own.settings_dict["OPTIONS"], "transaction_mode": "IMMEDIATE"}
            own.settings_dict = {**own.settings_dict, "OPTIONS": options}
        return own

    def claim_until_dry(self, runner):
        """Claim in small batches; try again what an outage or a deadlock undid."""
        mine = []
        while Task.objects.unlocked(timezone.now()).exists():
            try:
                with transaction.atomic():
                    leases.renew(runner, 600)
                    tasks = claims.claim(runner, ["job"], {EVERYTHING: 3})
            except OperationalError:
                continue
            mine += [task.pk for task in tasks]
        return mine

    def test_who_is_declared_dead_in_between_claims_nothing(self):
        make_task("job", (1,))
        Runner.objects.filter(pk="runner-1").delete()

        with self.assertRaises(leases.LeaseLost), transaction.atomic():
            claims.claim("runner-1", ["job"], {EVERYTHING: 1})

        self.assertIsNone(Task.objects.get().locked_by)

    def test_a_row_that_another_holds_open_is_passed_over_or_waited_for(self):
        if not connection.features.has_select_for_update_skip_locked:
            self.skipTest("this database cannot skip locked rows")
        first = make_task("job", ("first",), priority=1)
        make_task("job", ("second",))
        claimed = []

        def claim_one():
            with closing(self.own_connection()), transaction.atomic():
                claimed.extend(claims.claim("runner-1", ["job"], {EVERYTHING: 1}))

        with transaction.atomic():
            Task.objects.select_for_update().get(pk=first.pk)
            thread = threading.Thread(target=claim_one)
            thread.start()
            thread.join(30)

        self.assertEqual([task.params()[0] for task in claimed], [["second"]])


class ReclaimPidsTests(TestCase):
    def test_only_what_a_bare_pid_has_locked_is_unlocked(self):
        by_pid = make_task("app.tasks.by_pid", attempts=3).lock("4711")
        by_runner = make_task("app.tasks.by_runner").lock("0f4711")
        by_nobody = make_task("app.tasks.by_nobody")

        with self.assertLogs("background_task.tasks", "WARNING") as logs:
            self.assertEqual(claims.reclaim_pids(), 1)

        self.assertIn("locked by a bare pid: 1", logs.output[0])
        now = Task.objects.in_bulk()
        self.assertEqual(
            (
                now[by_pid.pk].locked_by,
                now[by_pid.pk].locked_at,
                now[by_pid.pk].attempts,
            ),
            (None, None, 3),
        )
        self.assertEqual(now[by_runner.pk].locked_by, "0f4711")
        self.assertIsNone(now[by_nobody.pk].locked_by)
