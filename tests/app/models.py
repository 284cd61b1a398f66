"""A model of the test project that points at tasks."""

from django.db import models


class Upload(models.Model):
    """Something a task works on; it outlives the task."""

    name = models.CharField(max_length=50)
    task = models.ForeignKey(
        "background_task.Task", null=True, on_delete=models.SET_NULL
    )

    def __str__(self):
        return self.name
