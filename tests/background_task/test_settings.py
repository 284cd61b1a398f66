import multiprocessing

from django.test import SimpleTestCase, override_settings

from background_task.settings import app_settings


class AppSettingsTests(SimpleTestCase):
    def test_defaults(self):
        defaults = {
            "MAX_ATTEMPTS": 25,
            "BACKGROUND_TASK_MAX_ATTEMPTS": 25,
            "MAX_RUN_TIME": 3600,
            "BACKGROUND_TASK_MAX_RUN_TIME": 3600,
            "BACKGROUND_TASK_RUN_ASYNC": False,
            "BACKGROUND_TASK_ASYNC_THREADS": multiprocessing.cpu_count(),
            "BACKGROUND_TASK_PRIORITY_ORDERING": "-",
            "BACKOFF_MULTIPLIER": 4,
            "BACKGROUND_TASK_WORKERS": None,
            "BACKGROUND_TASK_MEMORY_LIMIT": None,
            "BACKGROUND_TASK_GRACE": 5.0,
            "BACKGROUND_TASK_DRAIN_TIMEOUT": 25.0,
            "BACKGROUND_TASK_START_TIMEOUT": 60.0,
            "BACKGROUND_TASK_LEASE": 30.0,
            "BACKGROUND_TASK_OVERRIDES": {},
            "BACKGROUND_TASK_REPEAT_TIMEZONE": None,
            "BACKGROUND_TASK_REPEAT_AFTER_FAILURE": False,
            "workers": 1,
        }
        for name, default in defaults.items():
            with self.subTest(name):
                self.assertEqual(getattr(app_settings, name), default)

    def test_settings_are_read_live(self):
        with override_settings(MAX_ATTEMPTS=3):
            self.assertEqual(app_settings.MAX_ATTEMPTS, 3)
            self.assertEqual(app_settings.BACKGROUND_TASK_MAX_ATTEMPTS, 3)

        self.assertEqual(app_settings.MAX_ATTEMPTS, 25)

    @override_settings(MAX_ATTEMPTS=3, BACKGROUND_TASK_MAX_ATTEMPTS=4)
    def test_the_prefixed_max_attempts_wins(self):
        self.assertEqual(app_settings.MAX_ATTEMPTS, 4)
        self.assertEqual(app_settings.BACKGROUND_TASK_MAX_ATTEMPTS, 4)

    @override_settings(MAX_RUN_TIME=3, BACKGROUND_TASK_MAX_RUN_TIME=4)
    def test_the_prefixed_max_run_time_wins(self):
        self.assertEqual(app_settings.MAX_RUN_TIME, 4)
        self.assertEqual(app_settings.BACKGROUND_TASK_MAX_RUN_TIME, 4)

    def test_only_asc_turns_the_order_of_priorities(self):
        for value, prefix in (("ASC", ""), ("DESC", "-"), ("asc", "-"), (None, "-")):
            with (
                self.subTest(value),
                override_settings(BACKGROUND_TASK_PRIORITY_ORDERING=value),
            ):
                self.assertEqual(app_settings.BACKGROUND_TASK_PRIORITY_ORDERING, prefix)

    @override_settings(BACKGROUND_TASK_ASYNC_THREADS=7)
    def test_workers_come_from_the_old_settings_or_the_new_one(self):
        self.assertEqual(app_settings.workers, 1)
        with override_settings(BACKGROUND_TASK_RUN_ASYNC=True):
            self.assertEqual(app_settings.workers, 7)
            with override_settings(BACKGROUND_TASK_WORKERS=2):
                self.assertEqual(app_settings.workers, 2)
