import functools
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

from django.test import SimpleTestCase, TestCase, override_settings

import background_task
from background_task.exceptions import BackgroundTaskError
from background_task.policies import Policy
from background_task.tasks import Tasks, autodiscover, tasks
from tests.app import tasks as app_tasks


def job(number):
    """Do the job."""
    return number + 1


def another_job():
    pass


async def job_of_tomorrow(number):
    return number + 1


class Callable:
    def __call__(self, number):
        return number + 1


class AsyncCallable:
    async def __call__(self, number):
        return number + 1


class DecoratorTests(SimpleTestCase):
    def setUp(self):
        self.tasks = Tasks()

    def test_the_name_is_the_modules_and_the_functions(self):
        proxy = self.tasks.background(job)

        self.assertEqual(proxy.name, f"{__name__}.job")
        self.assertEqual(str(proxy), f"TaskProxy({__name__}.job)")
        self.assertIs(self.tasks._tasks[proxy.name], proxy)
        self.assertIs(self.tasks.get(proxy.name), proxy)

    def test_every_way_of_decorating(self):
        self.assertEqual(self.tasks.background()(job).name, f"{__name__}.job")
        self.assertEqual(self.tasks.background("a")(job).name, "a")
        self.assertEqual(self.tasks.background(name="b")(job).name, "b")

    def test_upstreams_positional_arguments(self):
        proxy = self.tasks.background("a", 60, "q", True)(job)

        self.assertIs(proxy.runner, self.tasks._runner)

        self.assertEqual(repr(proxy.schedule), "TaskSchedule(run_at=60, priority=None)")
        self.assertEqual((proxy.queue, proxy.remove_existing_tasks), ("q", True))

    def test_the_function_is_there_unchanged(self):
        proxy = self.tasks.background(job)

        self.assertIs(proxy.now, job)
        self.assertIs(proxy.task_function, job)
        self.assertIs(proxy.__wrapped__, job)
        self.assertEqual((proxy.__name__, proxy.__doc__), ("job", "Do the job."))
        self.assertEqual(proxy.now(1), 2)

    def test_attributes_of_the_function_do_not_hide_the_proxys(self):
        def named():
            pass

        named.name = "not this"
        named.extra = "this"

        proxy = self.tasks.background("that")(named)

        self.assertEqual((proxy.name, proxy.extra), ("that", "this"))

    def test_limits_are_kept_as_given(self):
        self.assertEqual(app_tasks.limited.policy.max_run_time, 90)
        self.assertEqual(app_tasks.limited.policy.memory_limit, "512M")
        self.assertEqual(app_tasks.note.policy, Policy())

    def test_any_callable_can_be_a_task(self):
        for function, name in (
            (functools.partial(job, 1), f"{__name__}.job"),
            (Callable(), f"{__name__}.Callable"),
            (Callable().__call__, f"{__name__}.__call__"),
            (lambda: 2, f"{__name__}.<lambda>"),
        ):
            with self.subTest(name):
                self.assertEqual(Tasks().background(function).name, name)

        self.assertEqual(Tasks().background(functools.partial(job, 1)).call(), 2)

    def test_calling_runs_sync_and_async_functions(self):
        for function in (
            job,
            job_of_tomorrow,
            functools.partial(job_of_tomorrow),
            Callable(),
            AsyncCallable(),
        ):
            with self.subTest(function):
                self.assertEqual(Tasks().background("a")(function).call(1), 2)

    def test_an_unknown_task_is_none(self):
        self.assertIsNone(self.tasks.get("unknown"))


class NameTests(SimpleTestCase):
    def setUp(self):
        self.tasks = Tasks()
        self.tasks.background("name")(job)

    def test_another_function_is_refused(self):
        with self.assertRaisesRegex(BackgroundTaskError, "Two functions.*'name'"):
            self.tasks.background("name")(another_job)

        self.assertIs(self.tasks.get("name").now, job)

    def test_a_partial_of_it_is_refused(self):
        with self.assertRaises(BackgroundTaskError):
            self.tasks.background("name")(functools.partial(job, 1))

    def test_equal_partials_are_one(self):
        self.tasks.background("partial")(functools.partial(job, 1))
        self.tasks.background("partial")(functools.partial(job, 1))

        with self.assertRaises(BackgroundTaskError):
            self.tasks.background("partial")(functools.partial(job, 2))

    def test_another_instance_is_refused(self):
        one, other = Callable(), Callable()
        self.tasks.background("callable")(one)
        self.tasks.background("callable")(one)

        with self.assertRaises(BackgroundTaskError):
            self.tasks.background("callable")(other)

    def test_the_same_function_defined_again_is_a_reload(self):
        code = job.__code__
        reloaded = types.FunctionType(code, globals(), "job")
        reloaded.__qualname__ = job.__qualname__

        self.tasks.background("name")(reloaded)

        self.assertIs(self.tasks.get("name").now, reloaded)

    def test_of_inner_functions_the_last_one_wins(self):
        def first():
            pass

        def second():
            pass

        self.tasks.background("inner")(first)
        self.tasks.background("inner")(second)

        self.assertIs(self.tasks.get("inner").now, second)


class AutodiscoverTests(SimpleTestCase):
    def test_the_apps_tasks_are_known(self):
        autodiscover()

        self.assertIs(tasks.get("tests.app.tasks.note"), app_tasks.note)

    def test_what_a_tasks_module_raises_is_raised(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory())) / "broken_app"
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "tasks.py").write_text("import a_library_that_is_not_there")
        (folder / "apps.py").write_text(
            "from django.apps import AppConfig\n"
            "class BrokenConfig(AppConfig):\n"
            "    name = 'broken_app'\n"
        )
        self.enterContext(mock.patch.object(sys, "path", [str(folder.parent)]))
        self.addCleanup(sys.modules.pop, "broken_app")
        self.addCleanup(sys.modules.pop, "broken_app.apps")

        with (
            override_settings(INSTALLED_APPS=["broken_app.apps.BrokenConfig"]),
            self.assertRaisesRegex(ImportError, "a_library_that_is_not_there"),
        ):
            autodiscover()


class LimitTests(SimpleTestCase):
    def test_a_limit_that_cannot_be_is_refused_where_it_is_written(self):
        registry = Tasks()
        for limit in (
            {"memory_limit": "5X"},
            {"max_run_time": -3},
            {"stall_timeout": 0},
            {"hard_memory": "yes"},
            {"on_timeout": "again"},
            {"on_memory": True},
            {"max_attempts": 0},
            {"backoff": []},
            {"backoff": [5, "soon"]},
            {"backoff": -1},
            {"dont_retry_on": "ValueError"},
            {"dont_retry_on": (ValueError, 7)},
        ):
            (name,) = limit

            with self.assertRaisesRegex(
                ValueError, rf"{name} of @background (is|has) .*: it must"
            ):
                registry.background(name="shop.greedy", **limit)(print)

        self.assertIsNone(registry.get("shop.greedy"))


class WorkerNameTests(SimpleTestCase):
    def test_it_is_the_pid_after_a_fork_too(self):
        code = (
            "import os, django; django.setup()\n"
            "from background_task.tasks import tasks\n"
            "before = tasks._runner.worker_name\n"
            "assert before == str(os.getpid())\n"
            "if pid := os.fork():\n"
            "    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
            "after = tasks._runner.worker_name\n"
            "os._exit(after == before or after != str(os.getpid()))\n"
        )

        subprocess.run([sys.executable, "-c", code], check=True)


class PackageTests(TestCase):
    def test_the_package_gives_the_decorator(self):
        self.assertEqual(background_task.background, tasks.background)

    def test_it_has_nothing_else(self):
        with self.assertRaises(AttributeError):
            background_task.nothing  # noqa: B018
