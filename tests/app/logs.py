"""Logs as people collect them: a line of JSON for each record, with all it carries."""

import json
import logging

_OWN = set(vars(logging.makeLogRecord({})))


class JsonFormatter(logging.Formatter):
    """What python-json-logger and its like write, without a dependency."""

    def format(self, record):
        carried = {k: v for k, v in vars(record).items() if k not in _OWN}
        said = {"level": record.levelname, "logger": record.name}
        return json.dumps({**said, "text": record.getMessage(), **carried})
