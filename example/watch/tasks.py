"""The tasks. Every call of one that is made elsewhere only puts a row in the queue."""

import os

from django.utils import timezone

from background_task import background

from . import misbehaving  # noqa: F401 (its tasks are found through this module)
from .certificates import days_left, describe, read_bundle
from .models import Certificate


@background
def check_certificate(fingerprint: str) -> None:
    """Read one certificate of the bundle and store what it says.

    A task may run again after its machine has died, so it must not matter how often it
    has run: a second run finds the row of the first by its fingerprint.
    """
    said = describe(read_bundle()[fingerprint])
    now = timezone.now()
    found = {
        "days_left": days_left(said["not_after"], now),
        "checked_at": now,
        "checked_by": os.getpid(),
    }
    Certificate.objects.update_or_create(fingerprint=fingerprint, defaults=said | found)


@background
def recheck_certificates() -> None:
    """Count the days again that every known certificate has left."""
    now = timezone.now()
    certificates = list(Certificate.objects.all())
    for certificate in certificates:
        certificate.days_left = days_left(certificate.not_after, now)
        certificate.checked_at = now
    Certificate.objects.bulk_update(certificates, ["days_left", "checked_at"])
