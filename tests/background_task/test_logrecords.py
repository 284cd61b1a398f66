"""Records carry the fields of the task that runs, and nothing when none does."""

import logging

from django.test import SimpleTestCase

from background_task import logrecords

logger = logging.getLogger("a shop")


class CarryingTests(SimpleTestCase):
    def logged(self, *args, **kwargs):
        with self.assertLogs(logger, "INFO") as logs:
            logger.info(*args, **kwargs)
        return logs.records[0]

    def test_fields_are_there_meanwhile_and_only_then(self):
        before = logging.Logger.handle
        with logrecords.carrying({"task_id": 1}):
            with logrecords.carrying({"task_id": 2}):
                inner = self.logged("inner")
            outer = self.logged("outer")
        after = self.logged("after")

        self.assertEqual((inner.task_id, outer.task_id), (2, 1))
        self.assertFalse(hasattr(after, "task_id"))
        self.assertIs(logging.Logger.handle, before)

    def test_an_extra_of_the_same_name_stands(self):
        with logrecords.carrying({"task_id": 1, "queue": None}):
            record = self.logged("own", extra={"task_id": "mine"})

        self.assertEqual((record.task_id, record.queue), ("mine", None))

    def test_what_has_wrapped_it_meanwhile_stays(self):
        former = logging.Logger.handle
        self.addCleanup(setattr, logging.Logger, "handle", former)
        with logrecords.carrying({"task_id": 1}):
            ours = logging.Logger.handle

            def theirs(logger, record):
                ours(logger, record)

            logging.Logger.handle = theirs

        self.assertIs(logging.Logger.handle, theirs)
        self.assertFalse(hasattr(self.logged("after"), "task_id"))
