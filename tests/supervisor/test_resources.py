"""Descriptors run out, or are closed: no job pays for that, and nobody dies of it."""

import json
import os
import resource

import pytest

from .tools import job, pid_in


def with_limit(soft, hard):
    """Return the command that runs something with so many open files at most."""
    return ["sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh"]


def take_all(pid):
    """Have a process open no further file, even when it closes a task's pidfd.

    Returns its limits from before.
    """
    links = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        links[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    free = set(range(len(links) + 1)) - set(links)
    pidfds = {fd for fd, link in links.items() if "pidfd" in link}
    former = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(free | pidfds), former[1]))
    return former


@pytest.mark.parametrize("who", ["launcher", "supervisor"])
@pytest.mark.parametrize("start_method", ["template", "spawn"])
def test_a_job_that_no_process_can_be_had_for_is_released(
    start, pid, gate, who, start_method
):
    jobs = job("wait", pid, gate), job("succeed")
    run = start(*jobs, until_empty=True, start_method=start_method)
    run.wait_until(pid.exists)
    starved = run.process.pid if who == "supervisor" else run.pid_of(who)

    former = take_all(starved)
    gate.touch()
    run.wait_until(lambda: "Released" in run.endings(2))
    resource.prlimit(starved, resource.RLIMIT_NOFILE, former)

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    *released, last = run.endings(2)
    assert set(released) == {"Released"}
    assert last == "Succeeded"
    assert "(RLIMIT_NOFILE is " in run.log
    assert "replaced" not in run.log


def test_an_aide_that_cannot_be_had_is_tried_again(start, pid, gate):
    run = start(job("wait", pid, gate), job("succeed"), until_empty=True)
    run.wait_until(pid.exists)

    former = take_all(run.process.pid)
    os.kill(run.pid_of("bookkeeper"), 9)
    run.wait_for_log("The bookkeeper could not be started: ")
    resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, former)
    gate.touch()

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert run.endings(2)[-1] == "Succeeded"


def test_more_workers_than_there_can_be_files_for_are_refused(start):
    run = start(job("succeed"), workers=100, command=with_limit(100, 100))

    assert run.finish() == 1

    assert "100 workers need " in run.log
    assert "no more than 100 may be had (the hard limit, RLIMIT_NOFILE)" in run.log
    assert run.entries("claimed") == []


@pytest.mark.parametrize("start_method", ["template", "spawn"])
def test_a_task_finds_the_limit_that_was_raised_for_its_supervisor_as_it_was(
    start, tmp_path, start_method
):
    run = start(
        job("say_open_files", tmp_path / "files"),
        workers=100,
        command=with_limit(200, 1000),
        until_empty=True,
        start_method=start_method,
    )

    assert run.finish() == 0, run.log
    assert json.loads((tmp_path / "files").read_text()) == [200, 1000]
    assert run.result["before"] == run.result["after"]


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("start_method", ["template", "spawn"])
def test_closed_standard_streams_are_no_matter(start, pid, closed, start_method):
    run = start(
        job("write_to_standard_output", pid),
        command=["sh", "-c", f'exec "$@" {closed}', "sh"],
        until_empty=True,
        start_method=start_method,
    )

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert pid_in(pid)
