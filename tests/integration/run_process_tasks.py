"""`manage.py process_tasks` for these tests: on the databases of the test session.

The settings name the real databases; which ones the session really works on arrives in
TEST_DATABASES, as JSON of alias to what differs.
"""

import json
import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line


def run(*arguments):
    for alias, where in json.loads(os.environ["TEST_DATABASES"]).items():
        settings.DATABASES[alias].update(where)
    execute_from_command_line(["manage.py", *arguments])


if __name__ == "__main__":
    run("process_tasks", *sys.argv[1:])
