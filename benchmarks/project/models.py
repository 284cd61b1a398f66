"""What the ORM task reads and writes."""

from django.db import models


class Row(models.Model):
    counter = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.pk}: {self.counter}"
