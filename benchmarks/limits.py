"""The limits that `make bench-limits` has tasks run into."""

LIMIT = 200  # MiB
TREES = 8, 64  # tasks that are watched at a time
WATCHED = {"limited": "with a limit", "unlimited": "without"}
