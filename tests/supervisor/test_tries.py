"""What is held on its way to the books."""

from types import SimpleNamespace

from background_task.supervisor.evidence import Evidence
from background_task.supervisor.job import Job
from background_task.supervisor.outcome import Released, Succeeded
from background_task.supervisor.tries import Tries


def test_what_ended_while_nobody_could_write_it_is_handed_in_as_it_ended():
    tries = Tries()
    for claim in ("late", "early", "never began"):
        tries.take(Job(id=1, name="name", target="target", args=[], claim=claim))
    for claim, moment in (("late", 2.0), ("early", 1.0)):
        known = Evidence(ended=moment)
        child = SimpleNamespace(evidence=known, left_sessions=list, told_progress=None)
        tries._tries[claim].child, tries._tries[claim].outcome = child, Succeeded()
    tries._tries["never began"].outcome = Released("no slot was free")

    handed_in = [claim for claim, _ in tries.hand_in()]

    assert handed_in == ["never began", "early", "late"]
    assert tries.hand_in() == []
    tries.take_back()
    assert [claim for claim, _ in tries.hand_in()] == handed_in
