from django.db import models

from background_task.models import Task


class Order(models.Model):
    """An order, and the task that sends its receipt."""

    address = models.EmailField()
    receipt = models.ForeignKey(Task, null=True, on_delete=models.SET_NULL)

    def __str__(self) -> str:
        return self.address
