"""Make the pictures of the documentation: `make screenshots`.

A site of its own with a believable day behind it, made up here, and a browser without a
screen that looks at it.
"""

import io
import json
import os
import random
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "screenshots"
sys.path[:0] = [str(ROOT), str(ROOT / "example")]
os.environ["DJANGO_SETTINGS_MODULE"] = "certwatch.settings"

import django  # noqa: E402
from django.conf import settings  # noqa: E402

FOLDER = tempfile.TemporaryDirectory(prefix="screenshots-")
settings.DATABASES["default"]["NAME"] = f"{FOLDER.name}/site.sqlite3"
settings.ALLOWED_HOSTS = ["localhost"]
settings.LOGGING = {"version": 1}
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.contrib.staticfiles.handlers import StaticFilesHandler  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.test.testcases import LiveServerThread  # noqa: E402
from django.utils import timezone  # noqa: E402
from PIL import Image  # noqa: E402

import background_task  # noqa: E402
from background_task import background, control, dashboard  # noqa: E402
from background_task.managers import hash_text, params_text  # noqa: E402
from background_task.models import (  # noqa: E402
    Attempt,
    CompletedTask,
    Runner,
    Task,
)
from tests.browser.tools import Chromium, Page, missing  # noqa: E402

MIB = 1024**2
NOW = timezone.now()
DESKTOP, WIDE, PHONE = (1280, 900), (1720, 900), (390, 844)

# name, queue, how many a day, seconds, bytes, how often it fails
SHOP = (
    ("shop.tasks.send_receipt", "mail", 2600, 0.4, 48 * MIB, 0.01),
    ("shop.tasks.resize_image", "images", 900, 2.5, 190 * MIB, 0.004),
    ("shop.tasks.update_search_index", None, 480, 6, 120 * MIB, 0.0),
    ("shop.tasks.sync_stock", "partners", 288, 11, 75 * MIB, 0.06),
    ("reports.tasks.monthly_report", "slow", 24, 160, 410 * MIB, 0.08),
    ("accounts.tasks.remove_expired_sessions", None, 24, 1.2, 40 * MIB, 0.0),
)
ERRORS = {
    "mail": (
        "Failed",
        "Traceback (most recent call last):\n"
        '  File "/srv/shop/tasks.py", line 41, in send_receipt\n'
        "    smtp.send(message)\n"
        "smtplib.SMTPServerDisconnected: Connection unexpectedly closed",
    ),
    "images": (
        "OutOfMemory",
        "Stopped at {n} MiB of memory: over the limit of 512 MiB (--memory-limit)",
    ),
    "partners": (
        "Failed",
        "Traceback (most recent call last):\n"
        '  File "/srv/shop/partners.py", line 88, in stock\n'
        "    return self.get(url)\n"
        "requests.exceptions.HTTPError: 503 Server Error for /stock/{n}",
    ),
    "slow": ("TimedOut", "Stopped after 300 s (max_run_time of @background)"),
}
RUNNING = (
    (
        "reports.tasks.monthly_report",
        "slow",
        214,
        300,
        432,
        (61, 100),
        "June to August",
    ),
    ("shop.tasks.sync_stock", "partners", 19, 60, 77, (1180, 4200), "warehouse Lyon"),
    ("shop.tasks.resize_image", "images", 4, 60, 205, None, None),
)


def main():
    if lacking := missing():
        print(f"Not made: a browser needs {' and '.join(lacking)} on PATH")
        return 1
    call_command("migrate", verbosity=0)
    for name, *_ in SHOP:  # else their arguments are hidden
        background(name=name)(lambda number: number)
    ops = User.objects.create_superuser("ops")
    PICTURES.mkdir(exist_ok=True)
    with served() as server, Chromium() as browser:
        page = Page(browser.driver, server)
        page.log_in(ops)
        take(page, "dashboard-empty", "/admin/background_task/task/dashboard/")
        fill()
        take_all(page)
    connections.close_all()
    FOLDER.cleanup()
    return 0


def take_all(page):
    board = "/admin/background_task/task/dashboard/"
    take(page, "dashboard", board)
    take(page, "dashboard-dark", board, dark=True)
    take(page, "dashboard-phone", board, PHONE)
    take(page, "dashboard-phone-dark", board, PHONE, dark=True)
    task = Task.objects.filter(task_name__endswith="monthly_report").first()
    failed = CompletedTask.objects.exclude(failed_at=None).order_by("-pk").first()
    here = "/admin/background_task"
    for name, path, size in (
        ("tasks", "task/", WIDE),
        ("task", f"task/{task.pk}/change/", DESKTOP),
        ("completed", "completedtask/", WIDE),
        ("completed-task", f"completedtask/{failed.pk}/change/", DESKTOP),
        ("runners", "runner/", WIDE),
    ):
        take(page, name, f"{here}/{path}", size)
        take(page, f"{name}-dark", f"{here}/{path}", size, dark=True)
        take(page, f"{name}-phone", f"{here}/{path}", PHONE)
    take(page, "stop", f"{board}stop/?target={task.pk}")


def take(page, name, path, size=DESKTOP, dark=False):
    """Take a picture of a whole page, as PNG."""
    dashboard.forget()
    width, height = size
    page.command(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=size == PHONE,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.command("Emulation.setEmulatedMedia", media="", features=[scheme])
    page.open(path)
    whole = page.run("return document.documentElement.scrollHeight")
    page.command(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=max(height, min(whole, 4600)),
        deviceScaleFactor=1,
        mobile=size == PHONE,
    )
    save(page.driver.get_screenshot_as_png(), PICTURES / f"{name}.png")
    wide = page.run("return document.documentElement.scrollWidth")
    print(f"{name}.png", "" if wide <= width else f"is {wide} px wide, of {width}")


def save(png, path):
    """Save a picture with few colours, which is enough and a third of the size."""
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


@contextmanager
def served():
    """Serve the site meanwhile, with its static files."""
    thread = LiveServerThread("localhost", StaticFilesHandler)
    thread.daemon = True
    thread.start()
    thread.is_ready.wait()
    if thread.error:
        raise thread.error
    try:
        yield f"http://localhost:{thread.port}"
    finally:
        thread.terminate()


# A day of a shop


def fill():
    dice = random.Random(4)
    number = 48_000
    rows = []
    for name, queue, a_day, seconds, size, fails in SHOP:
        for _ in range(a_day):
            number += 1
            ago = 86_400 * dice.random() ** 1.15
            if fails and 1500 < ago < 2700 and queue == "partners":
                fails_now = 0.7  # an outage of the partner
            else:
                fails_now = fails
            rows.append(
                attempt(dice, number, name, queue, ago, seconds, size, fails_now)
            )
    rows.sort(key=lambda row: row.ended_at)
    Attempt.objects.bulk_create(rows)
    failed = [row for row in rows if row.error]
    ended = sorted([*rows[-12:], *failed[-6:]], key=lambda row: row.ended_at)
    CompletedTask.objects.bulk_create(map(completed, ended))
    run()
    wait(dice)


def attempt(dice, number, name, queue, ago, seconds, size, fails):
    failed = dice.random() < fails
    outcome, text = ERRORS[queue] if failed else ("Succeeded", "")
    took = seconds * dice.lognormvariate(0, 0.5)
    ended_at = NOW - timedelta(seconds=ago)
    return Attempt(
        task_id=number,
        task_name=name,
        number=1,
        outcome=outcome,
        error=text.replace("{n}", str(dice.randrange(513, 900))),
        waited=dice.expovariate(8),
        started_at=ended_at - timedelta(seconds=took),
        ended_at=ended_at,
        host="worker-1" if dice.random() < 0.5 else "worker-2",
        pid=dice.randrange(1000, 60_000),
        runner_id="worker-1-7",
        exit_code=0,
        peak_memory=round(size * dice.lognormvariate(0, 0.1)),
        cpu_seconds=took * 0.6,
        output="Connecting to warehouse Lyon\n" if queue == "partners" else "",
    )


def completed(row):
    return CompletedTask(
        task_name=row.task_name,
        task_params=params_text([row.task_id], {}),
        task_hash=hash_text(row.task_name, str(row.task_id)),
        run_at=row.ended_at,
        attempts=1 if row.error else 0,
        failed_at=row.ended_at if row.error else None,
        last_error=row.error,
        task_id=row.task_id,
    )


def run():
    """Have two runners, and three tasks that run."""
    running = []
    for name, queue, seconds, limit, held, progress, message in RUNNING:
        task = waiting(name, queue, due_ago=seconds, locked_by="worker-1-7")
        task.locked_at = NOW - timedelta(seconds=seconds)
        if progress:
            task.progress_done, task.progress_total = progress
            task.progress_message = message
        task.save(force_insert=True)
        running.append(
            {
                "task": task.pk,
                "name": name,
                "pid": 4100 + task.pk,
                "began": time.time() - seconds,
                "held": held * MIB,
                "memory": 512 * MIB,
                "seconds": limit,
            }
        )
    for host, pid, shown in (
        ("worker-1", 7, running[:2]),
        ("worker-2", 7, running[2:]),
    ):
        Runner.objects.create(
            id=f"{host}-{pid}",
            host=host,
            place=host,
            pid=pid,
            pid_started=1,
            started_at=NOW - timedelta(days=2, hours=3),
            trusted_until=NOW + timedelta(hours=1),
            version=background_task.__version__,
            lease=3602,
            slots=4,
            queues=[],
            draining=False,
            running=shown,
        )


def wait(dice):
    """Have some tasks wait, and a queue rest."""
    tasks = [
        *(waiting("shop.tasks.send_receipt", "mail", due_ago=n / 3) for n in range(7)),
        *(waiting("shop.tasks.sync_stock", "partners", -60 * n) for n in range(1, 13)),
        *(waiting("reports.tasks.monthly_report", "slow", -3600 * n) for n in (5, 29)),
        *(waiting("shop.tasks.resize_image", "images", 1500 - n) for n in range(9)),
        waiting("accounts.tasks.remove_expired_sessions", None, -1700),
    ]
    for task in tasks:
        task.save(force_insert=True)
    control.pause("images", "nina")


def waiting(name, queue, due_ago, locked_by=None):
    params = params_text([random.Random(due_ago).randrange(9000)], {})
    return Task(
        task_name=name,
        task_params=params,
        task_hash=hash_text(name, json.dumps(params)),
        queue=queue,
        run_at=NOW - timedelta(seconds=due_ago),
        locked_by=locked_by,
    )


if __name__ == "__main__":
    sys.exit(main())
