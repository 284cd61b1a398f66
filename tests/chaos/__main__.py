"""Break everything at random, and prove that nothing was lost: `make chaos`.

python -m tests.chaos --database postgresql --minutes 15 --tasks 20000 --seed 7
"""

import argparse
import os
import random
import signal
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--database",
        choices=["postgresql", "mariadb", "sqlite"],
        default="postgresql",
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--tasks", type=int, help="default: twenty for each second")
    parser.add_argument("--supervisors", type=int, default=2)
    parser.add_argument(
        "--hosts",
        action="store_true",
        help="each supervisor in a pid namespace of its own, as on another machine",
    )
    parser.add_argument("--pace", type=float, default=1.0, help="seconds per fault")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    if options.hosts and options.database == "sqlite":
        parser.error("hosts of their own can't share a file: use another database")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Broken off"))
    django.setup()
    from .run import Plan, carry_out

    seconds = options.minutes * 60
    verdict = carry_out(
        Plan(
            database=options.database,
            seed=options.seed,
            seconds=seconds,
            tasks=options.tasks or round(seconds * 20),
            supervisors=options.supervisors,
            pace=options.pace,
            apart=options.hosts,
        )
    )
    print(verdict, end="")
    if verdict.broken:
        print(f"What is left of it: {verdict.folder}")
    return bool(verdict.broken)


if __name__ == "__main__":
    sys.exit(main())
