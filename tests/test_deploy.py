"""The files of docs/deploy and the Dockerfile: can they be read, and do they fit?"""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from django.core.management import load_command_class

from background_task.limits import parse_memory
from background_task.settings import app_settings
from background_task.supervisor.stopping import LAST_RECORD

ROOT = Path(__file__).parent.parent
FILES = ROOT / "docs" / "deploy"
MIB = 1024**2
OURS = 150 * MIB  # supervisor, bookkeeper, template: see docs/limits.md


def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(FILES / "background-tasks.service")
    return parser


def compose():
    return yaml.safe_load((FILES / "compose.yaml").read_text())


def deployment():
    return yaml.safe_load((FILES / "kubernetes.yaml").read_text())


def pod():
    return deployment()["spec"]["template"]["spec"]


def container():
    (worker,) = pod()["containers"]
    return worker


def entrypoint():
    (text,) = re.findall(r"^ENTRYPOINT (.*)$", (ROOT / "Dockerfile").read_text(), re.M)
    (more,) = re.findall(r"^CMD (.*)$", (ROOT / "Dockerfile").read_text(), re.M)
    return json.loads(text) + json.loads(more)


def seconds(text):
    return int(re.fullmatch(r"(\d+)s?", str(text))[1])


def memory(text):
    return parse_memory(str(text).upper().removesuffix("I"), "the file")


# Its command line, how long its stop may take, and its memory.
WAYS = {
    "systemd": lambda: (
        shlex.split(unit()["Service"]["ExecStart"]),
        seconds(unit()["Service"]["TimeoutStopSec"]),
        memory(unit()["Service"]["MemoryMax"]),
    ),
    "compose": lambda: (
        compose()["services"]["worker"]["command"],
        seconds(compose()["services"]["worker"]["stop_grace_period"]),
        memory(compose()["services"]["worker"]["mem_limit"]),
    ),
    "kubernetes": lambda: (
        container()["command"] + container()["args"],
        pod()["terminationGracePeriodSeconds"],
        memory(container()["resources"]["limits"]["memory"]),
    ),
}


def options(command):
    """Return what our command makes of the options; it exits if it knows them not."""
    place = command.index("process_tasks") + 1
    it = load_command_class("background_task", "process_tasks")
    return it.create_parser("manage.py", "process_tasks").parse_args(command[place:])


@pytest.mark.parametrize("way", WAYS)
def test_its_options_are_ours_and_its_time_to_stop_is_enough(way):
    command, stop, _ = WAYS[way]()

    drain = float(options(command).drain_timeout)

    grace = app_settings.BACKGROUND_TASK_GRACE
    assert stop > drain + grace + LAST_RECORD


@pytest.mark.parametrize("way", WAYS)
def test_its_memory_holds_all_workers_at_their_limit_and_us(way):
    command, _, size = WAYS[way]()

    said = options(command)

    assert size >= int(said.workers) * memory(said.memory_limit) + OURS


@pytest.mark.parametrize("way", ["compose", "kubernetes", "Dockerfile"])
def test_pid_1_is_ours_and_misses_no_signal(way):
    command = entrypoint() if way == "Dockerfile" else WAYS[way]()[0]

    assert command[:3] == ["env", "--block-signal=TERM", "python"]
    assert options(command)


def test_the_dockerfile_copies_what_is_let_through():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    for line in ignored:
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists()


def test_probes_look_at_the_file_that_is_written():
    pod_probes = (container()[f"{kind}Probe"] for kind in ("startup", "liveness"))
    alive = [probe["exec"]["command"] for probe in pod_probes]
    health = compose()["services"]["worker"]["healthcheck"]["test"]

    for way, commands in {"compose": [health[1:]], "kubernetes": alive}.items():
        path = options(WAYS[way]()[0]).heartbeat_file
        for command in commands:
            assert command == ["python", "-m", "background_task.probe", path]
    assert health[0] == "CMD"
    assert container()["readinessProbe"]["exec"]["command"] == [*alive[0], "--ready"]


def test_the_port_that_prometheus_scrapes_is_the_one_that_answers():
    (port,) = container()["ports"]
    annotations = deployment()["spec"]["template"]["metadata"]["annotations"]

    assert port["containerPort"] == int(options(WAYS["kubernetes"]()[0]).probe_port)
    assert annotations["prometheus.io/port"] == str(port["containerPort"])


def test_the_start_may_take_as_long_as_the_project_may_take_to_be_imported():
    startup, health = container()["startupProbe"], compose()["services"]["worker"]
    allowed = startup["periodSeconds"] * startup["failureThreshold"]

    assert allowed > app_settings.BACKGROUND_TASK_START_TIMEOUT
    assert seconds(health["healthcheck"]["start_period"]) == allowed


def test_a_pods_memory_is_asked_for_as_it_is_limited():
    resources = container()["resources"]

    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    assert deployment()["spec"]["selector"]["matchLabels"] == labels


def test_migrations_come_before_workers():
    for name in ("web", "worker"):
        waits = compose()["services"][name]["depends_on"]["migrate"]
        assert waits == {"condition": "service_completed_successfully"}


def test_the_unit_says_what_the_page_explains():
    service = unit()["Service"]

    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert (service["KillMode"], service["OOMPolicy"]) == ("mixed", "continue")
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"
    start = app_settings.BACKGROUND_TASK_START_TIMEOUT
    assert seconds(service["TimeoutStartSec"]) > start


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="NOT TESTED: no systemd-analyze"
)
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    text = (FILES / "background-tasks.service").read_text()
    text = re.sub(r"(?<=ExecStart=)\S+", sys.executable, text)
    text = text.replace("/srv/shop", str(tmp_path)).replace("User=shop", "User=root")
    path = tmp_path / "background-tasks.service"
    path.write_text(text)

    verify = ["systemd-analyze", "verify", "--man=no", str(path)]
    result = subprocess.run(verify, capture_output=True, text=True)

    assert (result.returncode, result.stdout + result.stderr) == (0, "")
