"""How a job runs and ends: processes, limits and outcomes, without a word of Django."""

if __name__ == "supervisor":
    raise ImportError(
        "Import this package as background_task.supervisor: under the name "
        "'supervisor' its classes would exist twice (and supervisord owns the name)."
    )
