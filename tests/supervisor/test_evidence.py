"""What is known of a try, beside how it ended?"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from background_task.supervisor.output import KEPT

from .tools import Run, job, pid_in

MIB = 1024 * 1024


@dataclass(frozen=True)
class Seen:
    """One run in which every job has ended."""

    run: Run
    numbers: dict

    def ending(self, name):
        return self.run.ending(self.numbers[name])

    def of(self, name):
        return self.ending(name)["evidence"]


@pytest.fixture(scope="module", params=["template", "spawn"])
def seen(request, start_once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence")
    quickly = {"seconds": 0.5, "grace": 0.3}
    jobs = {
        "printing": job("print_lines"),
        "dying": job("print_and_die"),
        "printing much": job("print_much", 8 * MIB, "\n"),
        "no end of line": job("print_much", 8 * MIB, "x"),
        "late": job("print_after_the_report"),
        "over time": job("a_well_known_function", 600, **quickly),
        "deaf": job("ignore_term_and_sleep", 600, **quickly),
        "deaf in C": job("block_term_and_spin_in_c", **quickly),
        "swallowing": job("catch_everything", **quickly),
        "greedy": job("grow_for_ever", memory=200 * MIB),
        "modest": job("hold_memory", 100 * MIB, 1.5, memory=400 * MIB),
        "unlimited": job("hold_memory", 100 * MIB, 2.5),
        "busy": job("burn", 0.3),
        "quiet": job("succeed"),
        "raising": job("raise_error"),
        "surroundings": job("say_sandbox", folder / "around", nice=5),
        "surroundings, killed": job(
            "say_sandbox", folder / "killed", "and die", nice=5
        ),
    }
    run = start_once(
        *jobs.values(), workers=3, until_empty=True, start_method=request.param
    )
    assert run.finish(timeout=110) == 0, run.log
    seen = Seen(run, {name: n for n, name in enumerate(jobs, 1)})
    object.__setattr__(run, "folder_of_tasks", folder)
    return seen


# What it has printed


def test_what_a_job_prints_is_kept_whoever_prints_it(seen):
    output = seen.of("printing")["output"]

    assert sorted(output.splitlines()) == [
        "from a subprocess",
        "from c",
        "from python",
        "to stderr",
        "without an end",
    ]
    assert seen.of("printing")["output_size"] == len(output)
    assert seen.of("quiet")["output"] == ""


def test_what_a_crash_had_printed_is_kept(seen):
    assert seen.of("dying")["output"] == "the last words\n"


@pytest.mark.parametrize("name", ["printing much", "no end of line"])
def test_of_much_the_head_and_the_tail_are_kept(seen, name):
    known = seen.of(name)

    assert known["output_size"] == 8 * MIB + len("the first\nthe last\n")
    assert known["output"].startswith("the first\n")
    assert known["output"].endswith("the last\n")
    left_out = known["output_size"] - 2 * KEPT
    assert f"\n[... {left_out} bytes ...]\n" in known["output"]


def test_what_is_printed_after_the_report_is_kept(seen):
    assert "late words" in seen.of("late")["output"]


# Where it was


@pytest.mark.parametrize("name", ["over time", "deaf"])
def test_what_was_stopped_by_time_tells_where_it_was(seen, name):
    assert seen.ending(name)["outcome"] == "TimedOut"
    assert "in a_well_known_function" in seen.of(name)["stack"]


def test_what_hangs_in_c_and_what_swallows_everything_tell_it_too(seen):
    assert "in block_term_and_spin_in_c" in seen.of("deaf in C")["stack"]
    assert "in catch_everything" in seen.of("swallowing")["stack"]


def test_what_was_stopped_by_memory_tells_where_it_was(seen):
    assert seen.ending("greedy")["outcome"] == "OutOfMemory"
    assert "in grow_for_ever" in seen.of("greedy")["stack"]


def test_a_segfault_tells_where_it_was(seen):
    assert seen.ending("dying")["outcome"] == "Crashed"
    stack = seen.of("dying")["stack"]
    assert "Fatal Python error: Segmentation fault" in stack
    assert "in segfault" in stack


@pytest.mark.parametrize("name", ["quiet", "raising", "late"])
def test_who_was_not_stopped_has_no_stack(seen, name):
    assert seen.of(name)["stack"] == ""


# What it has used


def test_the_peak_of_memory_is_what_the_job_held_itself(seen):
    assert 200 * MIB < seen.of("greedy")["peak"] < 600 * MIB
    for name in ("modest", "unlimited"):
        assert 60 * MIB < seen.of(name)["peak"] < 200 * MIB


def test_the_cpu_and_the_exit_are_known(seen):
    assert seen.of("busy")["cpu"] > 0.25
    assert seen.of("quiet")["exitcode"] == 0
    assert seen.of("raising")["exitcode"] == 1
    assert seen.of("dying")["exitcode"] == -signal.SIGSEGV
    assert seen.of("deaf")["exitcode"] == -signal.SIGKILL


def test_its_moments_are_known(seen):
    for name in ("quiet", "over time", "dying"):
        known = seen.of(name)
        assert known["pid"]
        assert known["started"] <= known["ended"]
    long = seen.of("over time")
    assert long["ended"] - long["started"] > 0.4


# What it finds around it


def surroundings(seen, name):
    import json

    return json.loads((seen.run.folder_of_tasks / name).read_text())


def test_the_surroundings_are_those_of_a_sandbox(seen):
    for name in ("around", "killed"):
        around = surroundings(seen, name)
        assert around["stdin"] == os.devnull
        assert around["core"] == 0
        assert around["nice"] == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)
        assert int(around["oom_score_adj"]) >= 800
        assert around["folder"].startswith(around["TMPDIR"])


def test_nothing_is_left_of_its_temporary_files(seen):
    for name in ("around", "killed"):
        folder = Path(surroundings(seen, name)["TMPDIR"])
        assert not folder.exists()
        assert not folder.parent.exists()


def test_evidence_of_reused_processes_is_each_jobs_own(start, tmp_path):
    run = start(
        job("print_lines"),
        job("burn", 0.3),
        job("say_sandbox", tmp_path / "around"),
        job("a_well_known_function", 600, seconds=0.5, grace=0.3),
        workers=1,
        tasks_per_process=10,
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    printing, busy, around, slow = (run.ending(n)["evidence"] for n in (1, 2, 3, 4))
    assert printing["pid"] == busy["pid"] == around["pid"] == slow["pid"]
    assert "from a subprocess" in printing["output"]
    assert [one["output"] for one in (busy, around, slow)] == ["", "", ""]
    assert busy["cpu"] > 0.25 > max(printing["cpu"], slow["cpu"])
    assert printing["stack"] == ""
    assert "in a_well_known_function" in slow["stack"]


@pytest.mark.parametrize("method", ["template", "spawn"])
def test_a_flood_of_output_keeps_no_limit_from_acting(start, method):
    run = start(
        job("print_much", 1024 * MIB, "\n"),
        job("a_well_known_function", 600, seconds=0.5, grace=0.3),
        workers=2,
        start_method=method,
    )

    run.wait_until(lambda: run.endings(2))

    assert run.endings(1) == []
    assert run.endings(2) == ["TimedOut"]
    assert run.stop() == 0, run.log


def test_what_is_printed_goes_on_to_our_own_stdout(start):
    run = start(job("print_lines"), job("print_and_die"), until_empty=True)

    assert run.finish() == 0, run.log
    said = run.stdout
    for line in ("from c", "to stderr", "without an end", "Segmentation fault"):
        assert line in said


def test_an_unread_stdout_stops_nobody(start, tmp_path):
    """What nobody reads is dropped, and the job is not held up."""
    read, write = os.pipe()
    try:
        run = start(
            job("print_much", 16 * MIB, "\n"),
            until_empty=True,
            stdout=write,
        )
        assert run.finish() == 0, run.log
        assert run.endings(1) == ["Succeeded"]
        assert run.ending(1)["evidence"]["output_size"] > 16 * MIB
    finally:
        os.close(read)
        os.close(write)


def test_sessions_of_what_is_stopped_are_ended(start):
    run = start(
        job("have_a_session", 600, seconds=0.5, grace=0.3),
        job("have_a_session"),
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    (ended,) = run.entries("session ended")
    assert ended["session"] == {"alias": "other", "number": 7, "since": "then"}


def test_what_was_stopped_with_a_session_is_recorded_though_its_end_is_refused(start):
    run = start(
        job("have_a_session", 600, seconds=0.5, grace=0.3),
        job("succeed"),
        queue={"poisoned": [1]},
        until_empty=True,
    )

    assert run.finish() == 0, run.log
    assert run.endings(1) == ["Lost"]
    assert run.endings(2) == ["Succeeded"]
    assert "The bookkeeper failed" not in run.log


def test_progress_reaches_the_queue_and_holds_off_the_stall(start, tmp_path):
    run = start(
        job("tell_of_progress", tmp_path / "gate", 8, 0.25, stall=1.5),
        job("a_well_known_function", 600, stall=0.5, stall_name="stall_timeout"),
        workers=2,
    )
    run.wait_until(lambda: run.endings(2))
    run.wait_until(
        lambda: any(entry["done"] == 8 for entry in run.entries("progress", id=1))
    )
    told = run.entries("progress", id=1)
    (tmp_path / "gate").touch()
    run.wait_until(lambda: run.endings(1))

    assert run.stop() == 0, run.log
    assert run.endings(1) == ["Succeeded"]
    assert told[-1]["total"] == 8
    assert told[-1]["text"] == "step 8"
    assert run.ending(2)["says"] == "Stopped: no progress for 0.5 s (stall_timeout)"
    assert "in a_well_known_function" in run.ending(2)["evidence"]["stack"]


def test_a_task_killed_before_it_has_said_anything_is_evidence_enough(start, pid):
    run = start(job("wait", pid))
    os.kill(pid_in(pid), signal.SIGKILL)
    run.wait_until(lambda: run.endings(1))

    assert run.stop() == 0, run.log
    assert run.ending(1)["evidence"]["exitcode"] == -signal.SIGKILL
