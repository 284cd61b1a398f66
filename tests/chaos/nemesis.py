"""What goes wrong, and when: a schedule made of a seed."""

import random
from dataclasses import dataclass

# How often each kind of fault is picked, beside the others.
EVERYWHERE = {
    "kill supervisor": 3,
    "kill bookkeeper": 3,
    "kill launcher": 3,
    "kill task": 4,
    "freeze supervisor": 2,
    "freeze bookkeeper": 2,
    "freeze launcher": 2,
    "freeze task": 2,
    "drain": 2,
}
BY_PROXY = {
    "cut": 3,
    "blackhole": 2,
    "delay": 2,
    "refuse": 2,
    "cut in commit": 2,
}
OF_A_SERVER = {"stop fast": 2, "stop immediate": 2}
OF_A_FILE = {"disk full": 2}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. `which` picks among those that it may happen to."""

    at: float  # seconds after the beginning
    kind: str
    which: float  # from 0 to 1
    lasts: float  # seconds, of what is undone afterwards


def schedule(seed, seconds, kinds, lease, pace):
    """Return faults for so many seconds, about one every `pace` seconds.

    What freezes and blackholes lasts up to twice the lease, so that faults overlap.
    """
    dice = random.Random(seed)
    faults, at = [], dice.uniform(0.5, 2.0)
    names, weights = list(kinds), list(kinds.values())
    while at < seconds:
        (kind,) = dice.choices(names, weights)
        faults.append(Fault(at, kind, dice.random(), dice.uniform(0.3, 2.0) * lease))
        at += dice.uniform(0.5, 1.5) * pace
    return faults
