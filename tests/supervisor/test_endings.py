"""Every way in which a try can end, each with a real process."""

import os
import signal
from dataclasses import dataclass

import pytest

from background_task.supervisor.entry import LONGEST_TEXT, text_of

from .tools import Run, is_running, job, pid_in, project_that

MIB = 1024 * 1024


@dataclass(frozen=True)
class Endings:
    """One run in which every job has ended, each in its own way."""

    run: Run
    numbers: dict
    folder: object

    def of(self, name):
        return self.run.ending(self.numbers[name])

    def pid(self, name):
        return pid_in(self.folder / name)


@pytest.fixture(scope="module")
def endings(start_once, tmp_path_factory):
    """Run all the jobs that can share a supervisor; kill two of them from outside."""
    folder = tmp_path_factory.mktemp("pids")
    quickly = {"seconds": 0.5, "grace": 0.3}
    patiently = {"seconds": 0.5, "grace": 30}
    jobs = {
        "killed from outside": job("wait", folder / "killed"),
        "stopped from outside": job("wait", folder / "stopped"),
        "success": job("succeed"),
        "exception": job("raise_error"),
        "long exception": job("raise_at_length"),
        "mute exception": job("raise_what_has_no_text"),
        "permanent exception": job("raise_permanent"),
        "sys.exit(0)": job("sys_exit", 0),
        "sys.exit(3)": job("sys_exit", 3),
        "os._exit(0)": job("os_exit", 0),
        "os._exit(3)": job("os_exit", 3),
        "segfault": job("segfault"),
        "real-time signal": job("die_by", signal.SIGRTMIN + 3),
        "lingering": job("report_and_linger", grace=0.3),
        "thread": job("leave_a_thread_behind"),
        "fork": job("leave_a_fork_behind", folder / "fork"),
        "subprocess": job("leave_a_subprocess_behind", folder / "subprocess"),
        "daemon": job("leave_a_daemon_behind", folder / "daemon"),
        "no module": job("no.such.module:function"),
        "no function": job("no_such_function"),
        "over time asleep": job("sleep", 600, **patiently),
        "over time in C": job("spin_in_c", **quickly),
        "over time and deaf": job("block_term_and_sleep", 600, **quickly),
        "over time in a subprocess": job("hide_in_a_subprocess", **patiently),
        "over time, swallowing": job("swallow_the_stop", **quickly),
        "over time, unwinding": job("unwind", folder / "unwound", **patiently),
        "over memory": job("hold_memory", 150 * MIB, 600, memory=100 * MIB),
        "over memory together": job(
            "hold_memory_in_subprocesses", 60 * MIB, 3, memory=130 * MIB
        ),
        "mapped file": job("map_a_file", folder / "big", 200 * MIB, memory=100 * MIB),
        "partial line": job("babble", '{"kind": "report", "verd'),
        "long partial line": job("babble", "x" * 100_000),
        "nonsense": job("babble", '\n{"kind": "begun", "at": "now"}\n[]\n{}\n7\n'),
    }
    run = start_once(
        *jobs.values(),
        workers=4,
        until_empty=True,
        grace=0.3,
        container={"root": str(folder), "membership": str(folder / "none")},
    )
    os.kill(pid_in(folder / "killed"), signal.SIGKILL)
    os.kill(pid_in(folder / "stopped"), signal.SIGTERM)
    assert run.finish(timeout=90) == 0, run.log
    return Endings(run, {name: n for n, name in enumerate(jobs, 1)}, folder)


def test_every_ending_is_recorded_once(endings):
    recorded = [entry["id"] for entry in endings.run.ends()]

    assert sorted(recorded) == sorted(endings.numbers.values())


def test_a_job_that_returns_has_succeeded(endings):
    assert endings.of("success")["outcome"] == "Succeeded"
    assert endings.of("success")["says"] == ""


# What it writes to its channel


@pytest.mark.parametrize("name", ["partial line", "long partial line"])
def test_what_a_job_writes_to_its_channel_does_not_hide_its_report(endings, name):
    assert endings.of(name)["outcome"] == "Succeeded"


# What raises


def test_an_exception_is_told_without_what_a_database_refuses(endings):
    ending = endings.of("exception")

    assert ending["outcome"] == "Failed"
    assert ending["permanent"] is False
    assert "ValueError: \\x00 bad \\ud800 text" in ending["says"]


def test_an_exception_is_told_from_the_users_first_frame_on(endings):
    says = endings.of("exception")["says"]

    assert "in raise_error" in says
    assert "supervisor/entry.py" not in says


def test_a_long_exception_keeps_its_head_and_its_tail(endings):
    ending = endings.of("long exception")

    assert ending["outcome"] == "Failed"
    assert len(ending["says"]) < LONGEST_TEXT + 100
    assert ending["says"].startswith("Traceback")
    assert ending["says"].endswith("the end\n")


def test_a_text_is_bounded_before_it_is_cleaned():
    error = ValueError("\0" * 1_000_000 + "the end")

    text = text_of(error)

    assert len(text) < LONGEST_TEXT + 100
    assert text.endswith("\\x00the end\n")
    assert text.count(" characters ...]") == 1


def test_an_exception_whose_text_raises_is_told_by_its_name(endings):
    ending = endings.of("mute exception")

    assert ending["outcome"] == "Failed"
    assert "Mute" in ending["says"]


def test_an_exception_may_be_permanent(endings):
    ending = endings.of("permanent exception")

    assert ending["outcome"] == "Failed"
    assert ending["permanent"] is True


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_is_an_exception(endings, code):
    ending = endings.of(f"sys.exit({code})")

    assert ending["outcome"] == "Failed"
    assert f"SystemExit: {code}" in ending["says"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no module", "ModuleNotFoundError: No module named 'no'"),
        ("no function", "no_such_function"),
    ],
)
def test_a_target_that_cannot_be_imported_has_failed(endings, name, text):
    ending = endings.of(name)

    assert ending["outcome"] == "Failed"
    assert text in ending["says"]


def test_a_sigterm_from_outside_is_told_as_such(endings):
    ending = endings.of("stopped from outside")

    assert ending["outcome"] == "Failed"
    assert "a SIGTERM that did not come from the supervisor" in ending["says"]


# What dies without a word


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_without_a_report_is_a_crash(endings, code):
    ending = endings.of(f"os._exit({code})")

    assert ending["outcome"] == "Crashed"
    assert ending["exitcode"] == code
    assert ending["says"].endswith(f"exited with code {code} without a report")


def test_a_segmentation_fault_is_a_crash(endings):
    ending = endings.of("segfault")

    assert ending["outcome"] == "Crashed"
    assert ending["says"] == "Crashed: the process was killed by SIGSEGV"


def test_a_signal_without_a_name_is_told_by_its_number(endings):
    says = endings.of("real-time signal")["says"]

    assert says == f"Crashed: the process was killed by signal {signal.SIGRTMIN + 3}"


def test_a_sigkill_from_outside_is_told_as_perhaps_the_kernels(endings):
    ending = endings.of("killed from outside")

    assert ending["outcome"] == "Crashed"
    assert "SIGKILL, not by its supervisor" in ending["says"]
    assert "the kernel may have been out of memory" in ending["says"]


def test_nonsense_on_its_channel_changes_no_outcome(endings):
    assert endings.of("nonsense")["outcome"] == "Succeeded"


# What is left behind


def test_one_that_reported_and_lingers_has_succeeded(endings):
    assert endings.of("lingering")["outcome"] == "Succeeded"


def test_a_thread_left_behind_changes_no_outcome(endings):
    assert endings.of("thread")["outcome"] == "Succeeded"


@pytest.mark.parametrize("what", ["fork", "subprocess", "daemon"])
def test_a_process_left_behind_is_killed(endings, what):
    assert endings.of(what)["outcome"] == "Succeeded"
    assert not is_running(endings.pid(what))


# What is stopped at a limit


@pytest.mark.parametrize(
    "how", ["asleep", "in C", "and deaf", "in a subprocess", ", swallowing"]
)
def test_one_over_its_time_is_stopped(endings, how):
    ending = endings.of(f"over time {how}".replace(" ,", ","))

    assert ending["outcome"] == "TimedOut"
    assert ending["says"] == "Stopped after 0.5 s (MAX_RUN_TIME)"


def test_one_that_is_stopped_unwinds(endings):
    assert endings.of("over time, unwinding")["outcome"] == "TimedOut"
    assert (endings.folder / "unwound").read_text() == "unwound"


@pytest.mark.parametrize(
    ("how", "limit"), [("over memory", 100), ("over memory together", 130)]
)
def test_one_over_its_memory_is_stopped(endings, how, limit):
    ending = endings.of(how)

    assert ending["outcome"] == "OutOfMemory"
    assert ending["used"] > ending["limit"] == limit * MIB
    assert f"over the limit of {limit} MiB" in ending["says"]


def test_a_mapped_file_is_no_memory_that_is_held(endings):
    assert endings.of("mapped file")["outcome"] == "Succeeded"


# What never begins


def test_one_that_does_not_begin_in_time_has_crashed(start, tmp_path):
    run = start(
        job("succeed"),
        **project_that("wait", tmp_path),
        start_timeout=12.0,  # the discovery of tasks has no more either
        until_empty=True,
    )

    assert run.finish() == 0, run.log

    assert run.ending(1)["outcome"] == "Crashed"
    assert run.ending(1)["says"] == (
        "Crashed while starting: it had not begun after 12 s "
        "(BACKGROUND_TASK_START_TIMEOUT)"
    )


def test_one_that_dies_before_it_begins_has_crashed_while_starting(start, tmp_path):
    run = start(job("succeed"), **project_that("exit", tmp_path), until_empty=True)

    assert run.finish() == 0, run.log

    assert run.ending(1)["outcome"] == "Crashed"
    assert run.ending(1)["while_starting"] is True
    assert run.ending(1)["exitcode"] == 9


def test_a_project_that_cannot_be_set_up_costs_no_attempt_and_ends_the_run(
    start, tmp_path
):
    run = start(job("succeed"), **project_that("raise", tmp_path))

    assert run.finish() == 1

    assert run.endings(1) == ["Released"] * 3
    assert "the project cannot be set up" in run.entries("recorded", id=1)[0]["says"]
    assert "RuntimeError: no such database" in run.result["failure"]


def test_a_project_that_cannot_be_discovered_ends_the_run(start):
    run = start(
        job("succeed"), project={"prepare": "tests.supervisor.targets:prepare_badly"}
    )

    assert run.finish() == 1

    assert run.entries("claimed") == []
    assert "RuntimeError: no such settings" in run.result["failure"]


@pytest.mark.parametrize(
    "text",
    ['\n{"kind": "begun", "fds": 1}\n', '\n{"kind": "x", "fds": "y"}\n'],
    ids=["fds that never came", "fds that are no number"],
)
def test_descriptors_that_were_never_sent_do_not_stop_the_supervisor(start, text):
    run = start(job("babble", text), job("succeed"), until_empty=True)

    assert run.finish() == 0, run.log

    assert run.ending(1)["outcome"] == "Succeeded"
    assert run.ending(2)["outcome"] == "Succeeded"


def test_deep_nonsense_does_not_stop_the_supervisor(start):
    run = start(job("babble", "\n" + "[" * 50_000 + "\n"), until_empty=True)

    assert run.finish() == 0, run.log

    assert run.ending(1)["outcome"] == "Succeeded"


def test_what_a_task_says_past_its_code_harms_nobody(start):
    """It is the same user as its supervisor, and knows its channel."""
    run = start(job("say_wrong_things"), job("succeed"), workers=2, until_empty=True)

    assert run.finish() == 0, run.log
    assert run.endings(1) == run.endings(2) == ["Succeeded"]
    assert "Traceback" not in run.log
    assert run.entries("session ended") == []
