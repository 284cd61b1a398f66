"""What the tasks have found out."""

from django.db import models


class Certificate(models.Model):
    """A certificate as it was when a task last looked at it."""

    fingerprint = models.CharField("SHA-256 fingerprint", max_length=64, unique=True)
    subject = models.CharField(max_length=250)
    issuer = models.CharField(max_length=250)
    key = models.CharField(max_length=50, help_text='such as "RSA 4096"')
    not_before = models.DateTimeField("valid from")
    not_after = models.DateTimeField("valid until")
    days_left = models.IntegerField(help_text="when it was checked; negative: expired")
    checked_at = models.DateTimeField()
    checked_by = models.IntegerField(help_text="the id of the process that read it")

    class Meta:
        ordering = ("not_after", "subject")

    def __str__(self) -> str:
        return self.subject


class Subprocess(models.Model):
    """A process that a task started and left behind; see `misbehaving.py`."""

    pid = models.IntegerField()
    command = models.CharField(max_length=250)
    started = models.FloatField(help_text="as psutil's create_time()")

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})"
