"""Any `manage.py` command, as `run_process_tasks` runs its own."""

import sys

from .run_process_tasks import run

if __name__ == "__main__":
    run(*sys.argv[1:])
