# The example under the supervisor, and a pattern for your own project.
#
#     docker build --tag certwatch .
#     docker run --stop-timeout 40 --memory 1g certwatch
#     docker run --entrypoint python certwatch example/demo.py
#
# --stop-timeout 40: `docker stop` sends TERM; running tasks get 25 s to finish, then 5 s
# to clean up, and their outcomes 5 s to be written. Docker's own 10 s would cut that off
# by SIGKILL (Kubernetes: terminationGracePeriodSeconds, whose default is 30).
#
# --memory: room for every worker at its limit, and for the supervisor. Without limits of
# their own (BACKGROUND_TASK_MEMORY_LIMIT or memory_limit=) one task can fill it alone,
# and then the kernel chooses whom to kill.
#
# For your own project, leave out what is the example's alone: `migrate` and the SQLite
# file that it makes belong to no image, but to a step of the deploy (and then nothing
# has to be writable: no chown). Install your requirements in place of '.[example]', and
# add to CMD a --memory-limit that fits --memory. For one image that web, migrate and
# worker share, as in docs/deploy/compose.yaml, leave ENTRYPOINT out: its list begins the
# worker's `command:` there.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir '.[example]' \
    && useradd --create-home worker \
    && chown worker example

USER worker
RUN python example/manage.py migrate

# The exec form: process_tasks itself is PID 1 and receives the signals. To PID 1 one is
# lost as long as nothing handles it, which is until Django is set up; blocked, it waits.
ENTRYPOINT ["env", "--block-signal=TERM", "python", "example/manage.py", "process_tasks"]
CMD ["--workers", "4"]
