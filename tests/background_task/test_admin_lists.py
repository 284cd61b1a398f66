"""The lists of the admin: what they show, what they cost, what is found."""

from datetime import UTC, datetime, timedelta
from unittest import skipUnless

from django.contrib import admin
from django.contrib.admin.views.main import ALL_VAR
from django.contrib.auth.models import User
from django.db import connection
from django.test import (
    RequestFactory,
    TestCase,
    TransactionTestCase,
    override_settings,
)
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from background_task.admin import lists
from background_task.admin.lists import CountedPaginator
from background_task.inuse import queues_of
from background_task.models import Attempt, CompletedTask, Runner, Task

from .tools import KNOWN, make_claimed_task, make_runner, make_task

NOW = timezone.now()
LATER = NOW + timedelta(hours=1)


def make_attempt(task, number=1, outcome="Succeeded", **columns):
    """Save how a try of a task went."""
    columns.setdefault("started_at", NOW - timedelta(seconds=75))
    columns.setdefault("ended_at", NOW)
    return Attempt.objects.create(
        task_id=task.pk,
        task_name=task.task_name,
        number=number,
        outcome=outcome,
        **columns,
    )


def make_completed(name="app.tasks.job", *args, **columns):
    """Save a task that has ended; return the completed row."""
    task = make_task(name, *args, **columns)
    completed = task.create_completed_task()
    task.delete()
    return completed


class ListTestCase(TestCase):
    def setUp(self):
        self.client.force_login(User.objects.create_superuser("root"))

    def page(self, model, **query):
        address = reverse(f"admin:background_task_{model._meta.model_name}_changelist")
        return self.client.get(address, query)

    def names(self, model, **query):
        """Return the names of the tasks that are found."""
        page = self.page(model, **query)
        self.assertEqual(page.status_code, 200, query)
        return {row.task_name for row in page.context["cl"].result_list}

    def shown(self, model, column, **query):
        """Return what a column shows, by the task's name."""
        cl = self.page(model, **query).context["cl"]
        show = getattr(cl.model_admin, column)
        return {row.task_name: show(row) for row in cl.result_list}


def one_of_each():
    """Save a task in each state, under the state's name."""
    make_task("waiting", run_at=LATER)
    make_task("retrying", run_at=LATER, attempts=2, last_error="oops")
    make_task("due")
    make_claimed_task("running")
    make_task("failed", failed_at=NOW, last_error="oops")


class StateTests(ListTestCase):
    def test_each_state_has_a_badge_with_its_word(self):
        one_of_each()
        make_completed("done")
        make_completed("failed for good", failed_at=NOW)
        make_completed("stopped", failed_at=NOW, last_error="Cancelled by ann")

        tasks = self.shown(Task, "status")
        completed = self.shown(CompletedTask, "status")

        for name, html in tasks.items():
            self.assertIn(f"bgtask-{name}", html)
            self.assertIn(f"</span> {name}</span>", html)
        self.assertIn("</span> done</span>", completed["done"])
        self.assertIn("</span> failed</span>", completed["failed for good"])
        self.assertIn("</span> cancelled</span>", completed["stopped"])
        marks = {html.split("</span>")[0][-1] for html in tasks.values()}
        self.assertEqual(len(marks), 5)  # not by colour alone

    def test_each_task_is_found_by_its_state_and_by_no_other(self):
        one_of_each()
        make_task("due again", attempts=1)
        for state in ("waiting", "retrying", "running", "failed"):
            self.assertEqual(self.names(Task, status=state), {state})
        self.assertEqual(self.names(Task, status="due"), {"due", "due again"})

        make_completed("done")
        make_completed("failed", failed_at=NOW)
        make_completed("cancelled", failed_at=NOW, last_error="Cancelled by ann")
        for state in ("done", "failed", "cancelled"):
            self.assertEqual(self.names(CompletedTask, status=state), {state})


class FilterTests(ListTestCase):
    def test_by_queue(self):
        for queue in ("mail", "news", None):
            make_task(f"of {queue}", queue=queue)
            make_completed(f"of {queue}", queue=queue)
        for model in (Task, CompletedTask):
            self.assertEqual(self.names(model, queue="=mail"), {"of mail"})
            self.assertEqual(self.names(model, queue="-"), {"of None"})
            self.assertContains(self.page(model), "?queue=%3Dnews")

    def test_a_queue_without_tasks_any_more_stays_chosen(self):
        make_task(queue="mail")

        self.assertContains(self.page(Task, queue="=gone"), "gone")

    def test_queues_are_looked_up_one_after_the_other_and_not_all(self):
        for number in range(60):
            make_task(queue=f"q{number:02}")
            make_task(queue=f"q{number:02}")
        make_task()

        with CaptureQueriesContext(connection) as queries:
            queues = queues_of(Task.objects.all(), 50)

        self.assertEqual(len(queries), 1)
        self.assertEqual(queues, [f"q{number:02}" for number in range(50)])
        self.assertEqual(queues_of(CompletedTask.objects.all(), 50), [])

    def test_by_when_it_ended(self):
        for name, ago in (("now", 0), ("today", 5), ("this week", 50), ("old", 500)):
            completed = make_completed(name)
            completed.run_at = timezone.now() - timedelta(hours=ago)
            completed.save()
        found = {
            within: self.names(CompletedTask, ended=within)
            for within in ("hour", "day", "week")
        }
        self.assertEqual(
            found,
            {
                "hour": {"now"},
                "day": {"now", "today"},
                "week": {"now", "today", "this week"},
            },
        )

    def test_by_how_a_try_ended(self):
        slow, fine = make_task("slow", attempts=1), make_task("fine", attempts=1)
        make_attempt(slow, outcome="TimedOut")
        make_attempt(fine)
        for task in (slow, fine):
            task.create_completed_task()
        for model in (Task, CompletedTask):
            self.assertEqual(self.names(model, outcome="TimedOut"), {"slow"})

    def test_a_rare_outcome_is_looked_for_among_the_tries_and_another_by_task(self):
        """Each task's tries are looked at only if few of them fill a page."""
        task = make_task("slow", attempts=2)
        make_attempt(task, 1, outcome="TimedOut")
        make_attempt(task, 2, outcome="TimedOut")
        task.create_completed_task()
        self.addCleanup(setattr, lists, "MOST_RARE", lists.MOST_RARE)
        for most, is_by_task in ((2, False), (1, True)):
            lists.MOST_RARE = most
            for model in (Task, CompletedTask):
                with CaptureQueriesContext(connection) as queries:
                    found = self.names(model, outcome="TimedOut")
                sql = "".join(query["sql"] for query in queries)
                self.assertEqual("EXISTS(" in sql, is_by_task, sql)
                self.assertEqual(found, {"slow"})

    @skipUnless(connection.vendor == "sqlite", "which has no statistics")
    def test_the_tries_of_a_task_are_looked_up_by_its_id(self):
        """By their outcome would be most of them, for each task."""
        self.addCleanup(setattr, lists, "MOST_RARE", lists.MOST_RARE)
        lists.MOST_RARE = -1
        for model in (Task, CompletedTask):
            cl = self.page(model, outcome="Succeeded").context["cl"]
            self.assertIn("(task_id=?)", cl.queryset.explain())

    def test_what_no_filter_has_is_all(self):
        make_task("one")
        make_completed("one")
        for query in ({"status": "x"}, {"ended": "x"}):
            self.assertEqual(self.names(CompletedTask, **query), {"one"})


class SearchTests(ListTestCase):
    def test_by_the_beginning_of_the_name(self):
        for make in (make_task, make_completed):
            make("shop.tasks.send_receipt")
            make("shop.tasks.import")
            make("other.shop.tasks.send")
        for model in (Task, CompletedTask):
            self.assertEqual(
                self.names(model, q=" shop.tasks.send "), {"shop.tasks.send_receipt"}
            )
            self.assertEqual(self.names(model, q="tasks"), set())

    def test_signs_of_patterns_mean_themselves(self):
        make_task("shop.a_b")
        make_task("shop.axb")

        self.assertEqual(self.names(Task, q="shop.a_"), {"shop.a_b"})
        self.assertEqual(self.names(Task, q="shop.%"), set())

    def test_by_id(self):
        tasks = [make_task("one"), make_task("two")]
        completed = tasks[0].create_completed_task()

        self.assertEqual(self.names(Task, q=tasks[1].pk), {"two"})
        self.assertEqual(self.names(CompletedTask, q=tasks[0].pk), {"one"})
        self.assertEqual(self.names(CompletedTask, q=completed.pk), {"one"})
        for digits in (18, 19, 30, 5000):
            for model in (Task, CompletedTask, Attempt):
                page = self.page(model, q="9" * digits)
                self.assertEqual(list(page.context["cl"].result_list), [])

    def test_by_the_beginning_of_the_hash(self):
        task = make_task(KNOWN, (1,))
        make_task(KNOWN, (2,))

        for text in (task.task_hash[:8], task.task_hash):
            found = self.page(Task, q=text).context["cl"].result_list
            self.assertEqual(list(found), [task])

    @skipUnless(connection.vendor == "sqlite", "the others' plans depend on statistics")
    def test_a_hash_is_found_by_its_index(self):
        found = lists.search(Task.objects.all(), "a" * 8, ("pk",), "task_hash")

        self.assertRegex(found.explain(), r"SEARCH.*\(task_hash>\? AND task_hash<\?\)")

    def test_arguments_are_not_searched(self):
        make_task("one", ("needle",))
        make_completed("one", ("needle",))

        for model in (Task, CompletedTask):
            self.assertEqual(self.names(model, q="needle"), set())

    def test_the_help_says_what_is_searched(self):
        for model in (Task, CompletedTask):
            self.assertContains(self.page(model), "beginning of a task")

    def test_attempts_by_id_and_name(self):
        task = make_task("shop.tasks.one")
        make_attempt(task)
        for text, found in ((task.pk, 1), ("shop", 1), ("tasks", 0)):
            with self.subTest(text):
                page = self.page(Attempt, q=text)
                self.assertEqual(len(page.context["cl"].result_list), found)


class ColumnTests(ListTestCase):
    def test_the_last_try_says_how_long_it_took_and_what_it_held(self):
        task = make_task("tried", attempts=2)
        make_attempt(task, 1, "Succeeded", peak_memory=1)
        make_attempt(task, 2, "TimedOut", peak_memory=150 * 1024**2)
        make_task("untried")
        task.create_completed_task()
        for model in (Task, CompletedTask):
            with self.subTest(model.__name__):
                self.assertEqual(self.shown(model, "lasted")["tried"], "1 min 15 s")
                self.assertEqual(self.shown(model, "peak")["tried"], "150 MiB")
                self.assertIn("timed out", self.shown(model, "outcome")["tried"])
        self.assertIsNone(self.shown(Task, "lasted")["untried"])
        self.assertIsNone(self.shown(Task, "outcome")["untried"])

    def test_a_running_task_says_for_how_long(self):
        make_claimed_task("running")
        Task.objects.update(locked_at=timezone.now() - timedelta(seconds=3602))

        self.assertEqual(self.shown(Task, "lasted"), {"running": "1 h so far"})

    def test_moments_are_relative_and_absolute(self):
        make_task("soon", run_at=timezone.now() + timedelta(minutes=5, seconds=58))

        html = self.shown(Task, "planned_at")["soon"]

        self.assertRegex(html, r"in 5 min \d+ s <small>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

    @override_settings(TIME_ZONE="Europe/Berlin")
    def test_one_that_is_never_to_run_is_listed(self):
        never = datetime(9999, 12, 31, 23, tzinfo=UTC)
        make_completed("never", repeat_until=never, run_at=never)
        make_task("never", run_at=never)
        CompletedTask.objects.update(run_at=never)

        for model in (Task, CompletedTask):
            html = self.shown(model, "planned_at")["never"]
            self.assertIn("<small>9999-12-31 23:00:00 UTC</small>", html)

    def test_a_title_of_what_is_huge_is_cut(self):
        huge = "x" * 1_000_000
        for model, make in ((Task, make_task), (CompletedTask, make_completed)):
            make(KNOWN, (huge,), last_error=huge)
            with self.subTest(model.__name__):
                self.assertLess(len(self.page(model).content), 50_000)

    def test_a_name_breaks_after_its_dots_and_underscores_and_is_no_markup(self):
        make_task("shop.tasks.<b>send_it")
        make_attempt(make_task("shop.tasks.<b>send_it"))
        for model in (Task, Attempt):
            with self.subTest(model.__name__):
                page = self.page(model)
                parts = "shop.<wbr>tasks.<wbr>&lt;b&gt;send_<wbr>it"
                self.assertContains(page, parts)
                self.assertNotContains(page, "<b>send")

    def test_a_row_has_the_id_that_commands_take_and_what_people_call_it(self):
        task = make_task("job", verbose_name="The <b>receipts</b>")
        make_attempt(task, 2)
        make_completed("ended", verbose_name="x" * 200)

        job = self.shown(Task, "named")["job"]
        ended = self.shown(CompletedTask, "named")["ended"]

        self.assertIn(f"<small>{task.pk}</small>", job)
        self.assertIn(">The &lt;b&gt;receipts&lt;/b&gt;</small>", job)
        row = CompletedTask.objects.get()
        self.assertNotEqual(row.pk, row.task_id)
        self.assertIn(f"<small>{row.task_id}</small>", ended)
        self.assertIn(f">{'x' * 59}\N{HORIZONTAL ELLIPSIS}</small>", ended)
        self.assertContains(self.page(Attempt), f"<small>{task.pk}, try 2</small>")

    def test_the_error_of_a_former_try_is_told_from_that_of_this_one(self):
        one_of_each()
        Task.objects.filter(task_name="running").update(last_error="oops")
        make_attempt(Task.objects.get(task_name="running"), peak_memory=1)
        make_completed("done", last_error="oops")  # as 1.2.8 left it
        make_completed("failed for good", failed_at=NOW, last_error="oops")

        errors = self.shown(Task, "has_error") | self.shown(CompletedTask, "has_error")

        said = {name for name, html in errors.items() if html and "oops" in html}
        former = {name for name, html in errors.items() if "former try" in (html or "")}
        self.assertEqual(former, {"running", "done"})
        self.assertEqual(said - former, {"retrying", "failed", "failed for good"})
        self.assertIsNone(self.shown(Task, "peak")["running"])

    def test_what_has_ended_says_when_it_did(self):
        make_completed()

        self.assertContains(self.page(CompletedTask), ">Ended</a>")
        self.assertContains(self.page(Task), "Nothing waits or runs.")
        make_task()
        self.assertContains(self.page(Task), ">Run at</a>")

    def test_an_error_comes_early_and_in_one_line(self):
        error = 'Traceback (most recent call last):\n  File "x"\nValueError: '
        make_attempt(make_task("job"), error=error + "why " * 40)

        row = self.page(Attempt).content.decode().partition("<tbody>")[2]

        self.assertIn("ValueError: why why", row)
        self.assertNotIn("Traceback", row)
        shown = row.partition('class="bgtask-error"')[2].partition(">")[2]
        self.assertLess(len(shown.partition("</span>")[0]), 100)
        for model in (Task, CompletedTask, Attempt):
            columns = self.page(model).context["cl"].list_display
            error_is = {"has_error", "error_said"}.intersection(columns).pop()
            self.assertLess(columns.index(error_is), 5, model)

    def test_the_list_of_tries_reads_no_output(self):
        for number in range(3):
            make_attempt(make_task(str(number)), output="x", stack="x", error="x")
        with CaptureQueriesContext(connection) as queries:
            self.page(Attempt)

        self.assertFalse([one for one in queries if "stack" in one["sql"]])

    def test_only_our_own_columns_are_left_out_where_there_is_no_room(self):
        class Ours(type(admin.site._registry[Task])):
            list_display = ("id", "task_name")

        self.assertContains(self.page(Task), "bgtask-fitted")
        request = RequestFactory().get("/")
        request.user = User.objects.get()
        theirs = Ours(Task, admin.site).changelist_view(request)
        self.assertNotIn("bgtask-fitted", theirs.render().content.decode())

        class Longer(type(admin.site._registry[Attempt])):
            def get_list_display(self, request):
                return [*super().get_list_display(request), "host"]

        theirs = Longer(Attempt, admin.site).changelist_view(request)
        self.assertNotIn("bgtask-fitted", theirs.render().content.decode())

    def test_a_project_links_by_the_name(self):
        class Ours(type(admin.site._registry[Task])):
            list_display = ("id", "task_name")
            list_display_links = ("task_name",)

        ours = Ours(Task, admin.site)
        self.assertEqual(ours.get_list_display(None), ["id", "named"])
        self.assertEqual(ours.get_list_display_links(None, ["id", "named"]), ["named"])

    def test_a_page_costs_the_same_queries_however_many_rows_it_has(self):
        counts = {Task: [], CompletedTask: [], Attempt: [], Runner: []}
        for _ in range(2):
            for number in range(6):
                task = make_task(f"task {number}", queue="mail", attempts=1)
                make_attempt(task)
                task.create_completed_task()
                make_runner(str(Runner.objects.count()))
            for model, found in counts.items():
                with CaptureQueriesContext(connection) as queries:
                    self.page(model)
                found.append(len(queries))
        for model, (few, many) in counts.items():
            self.assertEqual(few, many, model)
            self.assertLess(many, 12, model)

    def test_nothing_is_ordered_by_arguments(self):
        for model in (Task, CompletedTask):
            cl = self.page(model).context["cl"]
            self.assertNotIn("task_params", cl.list_display)
            self.assertIsNone(
                getattr(cl.model_admin.arguments, "admin_order_field", None)
            )

    def test_lists_are_ordered_by_what_an_index_begins_with(self):
        for model in (Task, CompletedTask, Attempt):
            cl = self.page(model).context["cl"]
            fields = set(filter(None, map(cl.get_ordering_field, cl.list_display)))
            indexed = {field.name for field in model._meta.fields if field.db_index}
            indexed |= {index.fields[0] for index in model._meta.indexes}
            with self.subTest(model.__name__):
                self.assertTrue(fields)
                self.assertLessEqual(fields, indexed)

    def test_what_is_alike_is_in_the_order_of_the_index(self):
        """Django's own order of it, the newest first, is a sort of nearly all."""
        by_id = connection.vendor != "postgresql"  # whose indexes do not end with it
        for model in (Task, CompletedTask):
            cl = self.page(model).context["cl"]
            number = cl.list_display.index("named")
            for sign, other in (("", 3), ("-", 3), ("", "")):
                page = self.page(model, o=f"{sign}{number}.{other}".rstrip("."))
                ordered = page.context["cl"].queryset.query.order_by
                ties = (f"{sign}pk",) if by_id else ()
                self.assertEqual(ordered, (f"{sign}task_name", *ties))

    @skipUnless(connection.vendor == "sqlite", "which says what it sorts")
    def test_no_column_head_has_a_large_table_sorted(self):
        for model in (Task, CompletedTask, Attempt):
            count = len(self.page(model).context["cl"].list_display)
            for number in range(-count, count + 1):
                rows = self.page(model, o=number).context["cl"].queryset
                with self.subTest(model.__name__, number=number):
                    self.assertNotIn("ORDER BY", rows[:50].explain())

    def test_facets_which_would_count_everything_are_not_offered(self):
        self.assertNotContains(self.page(Task), "_facets")

    def test_a_project_may_choose_other_columns(self):
        class Ours(type(admin.site._registry[Task])):
            list_display = ("id", "queue", "queue")

        self.assertEqual(Ours(Task, admin.site).check(), [])
        self.assertEqual(Ours(Task, admin.site).get_list_display(None), ["id", "queue"])

    def test_an_empty_list_says_what_to_do(self):
        for model, text in (
            (Task, "@background"),
            (CompletedTask, "process_tasks"),
            (Attempt, "process_tasks"),
            (Runner, "start manage.py process_tasks"),
        ):
            with self.subTest(model.__name__):
                self.assertContains(self.page(model), text)
        self.assertContains(self.page(Task, status="due"), "clear the filters")
        self.assertContains(self.page(Task, q="x"), "clear the filters")


class CountTests(ListTestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(setattr, lists, "MOST_COUNTED", lists.MOST_COUNTED)

    def test_few_rows_are_counted(self):
        for _ in range(3):
            make_task()

        self.assertContains(self.page(Task), "3 tasks")
        self.assertContains(self.page(Task, status="due"), "3 tasks")

    def test_filtered_rows_are_counted_up_to_a_limit(self):
        for _ in range(5):
            make_task()
        lists.MOST_COUNTED = 4

        page = self.page(Task, status="due")

        self.assertContains(page, "more than 4 tasks")
        self.assertNotContains(page, "4 results")
        self.assertEqual(page.context["cl"].result_count, 4)

    @override_settings(USE_THOUSAND_SEPARATOR=True)
    def test_all_means_what_it_says(self):
        make = (Task(task_name="x", run_at=NOW, task_params="[]") for _ in range(60))
        Task.objects.bulk_create(make)
        lists.MOST_COUNTED = 55

        page = self.page(Task, status="due")

        self.assertContains(page, "Select all more than 55 tasks")
        self.assertEqual(
            page.context["selection_note_all"], "All more than 55 selected"
        )
        last = self.page(Task, status="due", p=2)
        self.assertEqual(len(last.context["cl"].result_list), 5)

    def test_a_page_beyond_the_last_one_leads_back(self):
        make = (Task(task_name="x", run_at=NOW, task_params="[]") for _ in range(60))
        Task.objects.bulk_create(make)

        self.assertEqual(self.page(Task, p=3).status_code, 302)
        self.assertEqual(self.page(Task, **{ALL_VAR: ""}).status_code, 200)

    def test_a_sliced_list_is_counted_as_it_is(self):
        for _ in range(3):
            make_task()

        self.assertEqual(CountedPaginator(Task.objects.order_by("pk")[:2], 10).count, 2)


@skipUnless(connection.vendor in ("postgresql", "mysql"), "SQLite has no estimates")
class EstimateTests(TransactionTestCase):
    def test_a_large_table_is_estimated_and_a_small_one_counted(self):
        def tasks(number):
            return [
                Task(task_name="x", run_at=NOW, task_params="[]") for _ in range(number)
            ]

        Task.objects.bulk_create(tasks(200))
        self.addCleanup(setattr, lists, "MOST_COUNTED", lists.MOST_COUNTED)
        lists.MOST_COUNTED = 100
        with connection.cursor() as cursor:
            analyze = {"postgresql": "ANALYZE background_task"}
            cursor.execute(
                analyze.get(connection.vendor, "ANALYZE TABLE background_task")
            )
        with CaptureQueriesContext(connection) as queries:
            paginator = CountedPaginator(Task.objects.order_by("-id"), 50)
            count = paginator.count

        self.assertEqual(len(queries), 1)
        self.assertTrue(paginator.is_estimate)
        self.assertAlmostEqual(count, 200, delta=50)
        self.client.force_login(User.objects.create_superuser("root"))
        page = self.client.get(reverse("admin:background_task_task_changelist"))
        self.assertContains(page, f"about {count} tasks")
        lists.MOST_COUNTED = 1000
        self.assertEqual(CountedPaginator(Task.objects.order_by("-id"), 50).count, 200)
