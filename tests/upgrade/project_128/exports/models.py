from django.db import models

from background_task.models import Task


class Export(models.Model):
    """A file that a task writes; the row outlives the task."""

    name = models.CharField(max_length=50)
    task = models.ForeignKey(Task, null=True, blank=True, on_delete=models.SET_NULL)
    ready = models.BooleanField(default=False)

    def __str__(self):
        return self.name
