"""What jobs without Django do, well and badly."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time


def succeed(args, context):
    pass


def write(args, context):
    path, text = args
    with open(path, "a") as file:
        file.write(text + "\n")


def raise_error(args, context):
    raise ValueError("\0 bad \ud800 text")


class NotAgain(Exception):
    permanent = True


def raise_permanent(args, context):
    raise NotAgain("never")


def sys_exit(args, context):
    sys.exit(args[0])


def os_exit(args, context):
    os._exit(args[0])


def die_by(args, context):
    os.kill(os.getpid(), args[0])


def segfault(args, context):
    ctypes.string_at(0)


def sleep(args, context):
    time.sleep(args[0])


def block_term_and_sleep(args, context):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    time.sleep(args[0])


def spin_in_c(args, context):
    pow(3, 10**9)


def hide_in_a_subprocess(args, context):
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])


def hold_memory(args, context):
    held = bytearray(args[0])
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(args[1])
    del held


def hold_memory_in_subprocesses(args, context):
    size, count = args
    code = f"b = bytearray({size}); b[::4096] = b'x' * len(b[::4096]); import time; time.sleep(600)"
    for process in [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]:
        process.wait()


def leave_a_daemon_behind(args, context):
    """A grandchild in a session of its own, double-forked."""
    code = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '600'], "
        "start_new_session=True, stdout=-3); print(p.pid, flush=True)"
    )
    pid = subprocess.check_output([sys.executable, "-c", code], text=True)
    with open(args[0], "w") as file:
        file.write(pid)


def leave_a_thread_behind(args, context):
    threading.Thread(target=time.sleep, args=(600,)).start()


def leave_a_fork_behind(args, context):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    with open(args[0], "w") as file:
        file.write(str(pid))


def report_and_linger(args, context):
    import logging

    class Hanging(logging.Handler):
        def flush(self):
            time.sleep(600)

    logging.getLogger().addHandler(Hanging())


def swallow_the_stop(args, context):
    try:
        time.sleep(600)
    except BaseException:
        pass


def unwind(args, context):
    try:
        time.sleep(600)
    finally:
        with open(args[0], "w") as file:
            file.write("unwound")
