"""The small language of the browser tests: log in, open, look, click; wait for it.

A real Chromium without a screen, a real server on the session's database, and
`process_tasks` beside it (`tests.integration.tools.supervised`). The server sends a
policy that lets nothing inline run, and after each test the browser is asked whether
anything was refused, went wrong or went to another host.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import psutil
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.test import Client, override_settings
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.integration.tools import LifecycleTestCase, wait_until

__all__ = ["BrowserTestCase", "Chromium", "Keys", "Page", "missing", "wait_until"]

# Every process of the session's browser carries it.
MARK = "TEST_BROWSER"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)


def strict_policy(get_response):
    """Middleware: nothing inline, nothing from another host."""

    def respond(request):
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return respond


def missing():
    """Return which programs are missing that a browser test needs."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    found = {"chromium": browser, "chromedriver": shutil.which("chromedriver")}
    return [name for name, path in found.items() if path is None]


class Chromium:
    """The one browser of a test session, in a folder that goes with it."""

    def __enter__(self):
        self._folder = tempfile.mkdtemp(prefix="chromium-")
        self._mark = f"{os.getpid()} {Path(self._folder).name}"
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or shutil.which(
            "google-chrome"
        )
        for argument in (
            "--headless=new",
            "--no-sandbox",  # there is none for root, nor in most containers
            "--no-zygote",  # whose children would be left to an init that may not reap
            "--disable-breakpad",
            "--disable-crash-reporter",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--force-prefers-reduced-motion",
            "--window-size=1280,900",
            f"--user-data-dir={self._folder}/profile",
        ):
            options.add_argument(argument)
        logs = {"performance": "ALL", "browser": "ALL"}
        options.set_capability("goog:loggingPrefs", logs)
        here = dict.fromkeys(("TMPDIR", "HOME", "XDG_CONFIG_HOME"), self._folder)
        service = webdriver.ChromeService(
            executable_path=shutil.which("chromedriver"),
            env=os.environ | here | {MARK: self._mark},
        )
        try:
            self.driver = webdriver.Chrome(options=options, service=service)
        except BaseException:
            self._sweep()
            raise
        return self

    def __exit__(self, *raised):
        try:
            self.driver.quit()
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not self._processes(), 10, "the browser's end")
        finally:
            self._sweep()

    def _sweep(self):
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _processes(self):
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_ours = process.environ().get(MARK) == self._mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


class Page:
    """What a test sees of the browser. What is read is read at once, never stale."""

    def __init__(self, driver, server):
        self.driver = driver
        self.server = server
        self._console, self._requests = [], []
        self._read_logs()  # what a former test left
        self._console.clear()
        self._requests.clear()

    def log_in(self, user):
        """Be this user from the next page on."""
        client = Client()
        client.force_login(user)
        value = client.cookies[settings.SESSION_COOKIE_NAME].value
        self.command(
            "Network.setCookie",
            name=settings.SESSION_COOKIE_NAME,
            value=value,
            url=self.server,
        )

    def command(self, name, /, **arguments):
        """Tell the browser something of the DevTools protocol; return its answer."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def open(self, path):
        self.driver.get(self.server + path)

    def run(self, script, *arguments):
        """Return what a script returns, run beside the page whatever its policy."""
        return self.driver.execute_script(script, *arguments)

    @property
    def path(self):
        return self.driver.current_url.removeprefix(self.server)

    def text(self, css="body"):
        """Return the visible text of the first one; None if there is none."""
        return self.run("return document.querySelector(arguments[0])?.innerText", css)

    def attribute(self, css, name):
        """Return an attribute of the first one; None if there is none."""
        script = "return document.querySelector(arguments[0])?.getAttribute"
        return self.run(f"{script}(arguments[1]) ?? null", css, name)

    def count(self, css):
        return self.run("return document.querySelectorAll(arguments[0]).length", css)

    def click(self, css):
        """Click the first one, when it is there, as a person with a mouse does."""
        wait_until(lambda: self._clicked(css), what=f"{css} can be clicked")

    def _clicked(self, css):
        try:
            self.driver.find_element(By.CSS_SELECTOR, css).click()
        except WebDriverException as error:  # not there, replaced, or below another
            self._why = error
            return False
        return True

    def press(self, *keys):
        """Press keys where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def waits_for_text(self, text, css="body"):
        """Wait until the page says this."""
        wait_until(lambda: text in (self.text(css) or ""), what=f"{text!r} in {css}")

    def without_scripts(self):
        """Have no script run from the next page on."""
        self.command("Emulation.setScriptExecutionDisabled", value=True)

    def requests(self):
        """Return the addresses that were asked for since the test began."""
        self._read_logs()
        return list(self._requests)

    def forgive(self, pattern):
        """Have the problems that match, of which there must be some, count as none."""
        assert re.search(pattern, "\n".join(self.problems())), f"no {pattern}"
        for told in (self._console, self._requests):
            told[:] = [line for line in told if not re.search(pattern, line)]

    def problems(self):
        """Return what was refused, went wrong, or went to another host."""
        allowed = (self.server + "/", "data:", "about:", "blob:", "chrome:")
        return [
            *(url for url in self.requests() if not url.startswith(allowed)),
            *self._console,
        ]

    def _read_logs(self):
        for entry in self.driver.get_log("browser"):
            by_itself = "/favicon.ico" in entry["message"]  # the browser asks for it
            if entry["level"] in ("SEVERE", "WARNING") and not by_itself:
                self._console.append(f"{entry['level']}: {entry['message']}")
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])

    def leave(self):
        """Leave nothing to the next test."""
        self.command("Emulation.setScriptExecutionDisabled", value=False)
        self.command("Emulation.clearDeviceMetricsOverride")
        self.command("Emulation.setEmulatedMedia", media="", features=[])
        self.command(
            "Storage.clearDataForOrigin", origin=self.server, storageTypes="all"
        )
        self.driver.get("about:blank")
        self.command("Network.clearBrowserCookies")


@override_settings(
    MIDDLEWARE=[
        "tests.browser.tools.strict_policy",
        *settings.MIDDLEWARE,
        "django.middleware.csrf.CsrfViewMiddleware",
    ]
)
class BrowserTestCase(LifecycleTestCase, StaticLiveServerTestCase):
    """A page of its own for each test, in the session's browser: `self.page`."""

    page: Page  # set by the fixture of conftest.py

    def user(self, name="ops", *permissions):
        """Return a superuser, or if permissions are named one who has only those."""
        if not permissions:
            return User.objects.create_superuser(name)
        user = User.objects.create_user(name, is_staff=True)
        found = Permission.objects.filter(
            content_type__app_label="background_task", codename__in=permissions
        )
        assert len(found) == len(permissions), "no such permission"
        user.user_permissions.add(*found)  # SQLite waits for no lock after a read
        return user

    def open_as(self, user, path):
        self.page.log_in(user)
        self.page.open(path)
