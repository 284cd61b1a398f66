from django.conf import settings

from background_task import background
from background_task.exceptions import InvalidTaskError

from .models import Export


@background
def note(label, *args, **kwargs):
    """Write down that this ran, and how much it was given."""
    size = len(str(args)) + len(str(kwargs))
    with open(settings.JOURNAL, "a", encoding="utf-8") as journal:
        journal.write(f"{label} {size}\n")


@background(schedule=60)
def export(pk):
    Export.objects.filter(pk=pk).update(ready=True)


@background(queue="mail", remove_existing_tasks=True)
def mail(address):
    note.now(address)


@background
def fail(label):
    note.now(label)
    raise ValueError(f"{label}: a bad day")


@background
def give_up(label):
    raise InvalidTaskError(f"{label}: never again")
