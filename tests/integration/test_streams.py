"""Standard output is closed or full: that stops no task."""

from background_task.models import CompletedTask

from .tools import LifecycleTestCase, put, run_until_empty


class StandardStreamsTests(LifecycleTestCase):
    def test_a_standard_output_that_takes_nothing_stops_nothing(self):
        for redirection in (">&-", "> /dev/full", "0<&- 1>&-"):
            for method in ("template", "spawn"):
                with self.subTest(redirection, method=method):
                    put("work", str(self.journal), "done")

                    run_until_empty(
                        "--start-method",
                        method,
                        prefix=("sh", "-c", f'exec "$@" {redirection}', "sh"),
                    )

                    self.assertIsNone(CompletedTask.objects.get().failed_at)
                    CompletedTask.objects.all().delete()
