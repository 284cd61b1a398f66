"""Models of the test project: one that points at tasks, and creators of tasks."""

import uuid

from django.contrib.auth.models import User
from django.contrib.contenttypes.fields import GenericRelation
from django.db import models


class Upload(models.Model):
    """Something a task works on; it outlives the task."""

    name = models.CharField(max_length=50)
    task = models.ForeignKey(
        "background_task.Task", null=True, on_delete=models.SET_NULL
    )

    def __str__(self):
        return self.name


class Customer(models.Model):
    """One who sees the tasks that were made for them."""

    name = models.CharField(max_length=50)
    tasks = GenericRelation(
        "background_task.Task",
        content_type_field="creator_content_type",
        object_id_field="creator_object_id",
    )

    def __str__(self):
        return self.name


class Profile(models.Model):
    """One whose key is a number, under another name than `id`."""

    user = models.OneToOneField(User, primary_key=True, on_delete=models.CASCADE)

    def __str__(self):
        return self.user.username


class Visitor(models.Model):
    """One whose key is no number."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

    def __str__(self):
        return str(self.id)


class Country(models.Model):
    """One whose key is a text, which may read as a number."""

    code = models.CharField(max_length=10, primary_key=True)

    def __str__(self):
        return self.code
