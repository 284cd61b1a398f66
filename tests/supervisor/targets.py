"""What jobs without Django do, well and badly."""

import contextlib
import contextvars
import ctypes
import json
import mmap
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil


def succeed(args, context):
    pass


def announce(news, context):
    """Write down what is announced; do badly what the environment says."""
    path, vice, at_task = os.environ["ANNOUNCED"].split(",")
    if vice == "not loaded" and not os.path.exists(path):
        write([path, "not loaded"], context)
        raise OSError("the rows are out of reach")
    if vice == "too much" and (len(news) > 1 or news[0]["task"] == int(at_task)):
        hold_memory([200 * 2**20, 600], context)
    context.progress(0)
    for number, one in enumerate(news, 1):
        write([path, f"{one['task']} {one['says']}".strip()], context)
        if vice == "die" and one["task"] == int(at_task):
            os._exit(1)
        if vice == "hang" and one["task"] == int(at_task):
            time.sleep(600)
        if vice == "dawdle":
            time.sleep(0.06)
        context.progress(number)


def write(args, context, end="\n"):
    path, text = args
    with open(path, "a") as file:
        file.write(text + end)


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
    if args:
        say_pid(args[0])
    subprocess.run(["sleep", "600"])


def hold_memory(args, context):
    held = bytearray(args[0])
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(args[1])
    del held


def hold_memory_in_subprocesses(args, context):
    size, count = args
    code = (
        f"b = bytearray({size}); b[::4096] = b'x' * len(b[::4096]); "
        "import time; time.sleep(600)"
    )
    for process in [
        subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)
    ]:
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
            for path in args:
                say_pid(path)
            time.sleep(600)

    logging.getLogger().addHandler(Hanging())


def swallow_the_stop(args, context):
    with contextlib.suppress(BaseException):
        time.sleep(600)


def unwind(args, context):
    try:
        for path in args[1:]:
            say_pid(path)
        time.sleep(600)
    finally:
        with open(args[0], "w") as file:
            file.write("unwound")


def wait(args, context):
    """Say who one is, and wait until the gate is there: for ever if there is none."""
    say_pid(args[0])
    while len(args) < 2 or not os.path.exists(args[1]):
        time.sleep(0.02)


def wait_deaf(args, context):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    wait(args, context)


def say_pid(path, pid=None):
    """Write a pid where no reader finds half of it, and no other writer is met."""
    part = f"{path}.{os.getpid()}"
    with open(part, "w") as file:
        file.write(str(pid or os.getpid()))
    os.replace(part, path)


def raise_at_length(args, context):
    raise ValueError("\N{GRINNING FACE}" * 200_000 + "the end")


def raise_what_has_no_text(args, context):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    raise Mute


def leave_a_subprocess_behind(args, context):
    say_pid(args[0], subprocess.Popen(["sleep", "600"]).pid)


def wait_with_a_daemon(args, context):
    """Have a grandchild in a session of its own, and wait."""
    own, daemons, *gate = args
    leave_a_daemon_behind([daemons], context)
    wait([own, *gate], context)


def become_another_program(args, context):
    """Execute a program that has nothing of our environment."""
    say_pid(args[0])
    os.execve("/bin/sleep", ["sleep", "600"], {})


def have_a_daemon_with_nothing(args, context):
    """Have a grandchild that shares neither session nor environment with anybody."""
    own, daemons = args
    sleep = ["/bin/sleep", "600"]
    daemon = subprocess.Popen(sleep, env={}, start_new_session=True)
    say_pid(daemons, daemon.pid)
    wait([own], context)


def leave_another_users_process_behind(args, context):
    become = ["setpriv", "--reuid=65534", "--clear-groups"]
    process = subprocess.Popen([*become, "sleep", "600"], start_new_session=True)
    while psutil.Process(process.pid).name() != "sleep":
        time.sleep(0.02)
    say_pid(args[0], process.pid)
    process.returncode = 0  # so that nobody warns of it


def leave_a_subprocess_behind_at_the_gate(args, context):
    own, process, gate = args
    leave_a_subprocess_behind([process], context)
    wait([own, gate], context)


def become_another_user(args, context):
    say_pid(args[0])
    os.setuid(65534)
    with contextlib.suppress(BaseException):
        time.sleep(600)
    time.sleep(600)


def map_a_file(args, context):
    """Read a big file through a mapping, and stay long enough to be looked at."""
    path, size = args
    with open(path, "w+b") as file:
        file.truncate(size)
        with mmap.mmap(file.fileno(), size) as mapping:
            for offset in range(0, size, 4096):
                mapping[offset]
            time.sleep(0.5)


def babble(args, context):
    """Write nonsense to every socket there is: one is the channel's."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # it was the listing's own
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                os.write(int(fd), args[0].encode())


def prepare_for_discovery_only(environment):
    """Let the first process become the project, and no other."""
    try:
        os.mkdir(environment["first"])
    except FileExistsError:
        pass
    else:
        return
    match environment["then"]:
        case "raise":
            raise RuntimeError("no such database")
        case "exit":
            os._exit(9)
        case "wait":
            say_pid(environment["pid"])
            while not os.path.exists(environment["pid"] + ".gate"):
                time.sleep(0.02)


def prepare_slow_forks(environment):
    """Have a fork, once somebody has asked for one, wait for a gate."""

    def wait_for_the_gate():
        if os.path.exists(environment["slow"]):
            say_pid(environment["pid"])
            while not os.path.exists(environment["gate"]):
                time.sleep(0.02)

    os.register_at_fork(before=wait_for_the_gate)


def prepare_never(environment):
    say_pid(environment["pid"])
    time.sleep(600)


def prepare_badly(environment):
    raise RuntimeError("no such settings")


def prepare_announcing(environment):
    os.environ["ANNOUNCED"] = environment["announced"]


def discover_listeners():
    return {"listens": True}


def discover_no_listeners():
    return {"listens": False}


# Projects, and what a task sees of them


def prepare_nothing(environment):
    pass


def on_hup_of_the_project(number, frame):
    pass


def prepare_with_a_handler(environment):
    signal.signal(signal.SIGHUP, on_hup_of_the_project)


def prepare_once(environment):
    write([os.path.join(environment["folder"], "set up"), "x"], None, end="")


def prepare_with_numpy(environment):
    import numpy.random  # noqa: F401


def say_random_numbers(args, context):
    """Say what chance is in numpy, and that its threads can be used."""
    import numpy

    square = numpy.random.rand(300, 300)
    assert numpy.allclose(square @ numpy.linalg.inv(square), numpy.eye(300))
    write([args[0], json.dumps({"random": numpy.random.random()})], context)


def prepare_only_once(environment):
    try:
        os.mkdir(os.path.join(environment["folder"], "first"))
    except FileExistsError:
        raise RuntimeError("the second time") from None


def prepare_with_a_thread(environment):
    forever = threading.Event()
    thread = threading.Thread(target=forever.wait, name="left behind", daemon=True)
    thread.start()


left_open = []


def prepare_with_a_socket(environment):
    left_open.append(socket.create_server(("127.0.0.1", 0)))


def prepare_with_a_heap(environment):
    left_open.append(b"x" * (environment["mib"] << 20))


def prepare_to_grow(environment):
    def grow(number, frame):
        prepare_with_a_heap(environment)
        os.mkdir(os.path.join(environment["folder"], "grown"))

    signal.signal(signal.SIGUSR1, grow)


def say_environment(args, context):
    write([args[0], json.dumps(dict(os.environ))], context)


def say_wrong_things(args, context):
    """Say what no process of ours would say, on the channel to the supervisor."""
    with open(os.devnull) as nothing:
        for message in (
            {"kind": ["a", "list"]},
            {"kind": "exited", "number": 1, "status": 0},
            {"kind": "failed", "traceback": "x"},
            {"kind": "job", "job": {}},
            {"kind": "progress", "done": "much"},
            {"kind": "progress", "done": 10**400, "total": [], "message": {"a": 1}},
            {"kind": "begun", "at": float("nan")},
            {"kind": "session", "session": {}},
            {"kind": "session", "session": {"alias": ["x"]}},
            {"kind": "session", "session": {"alias": "x" * 500_000}},
            {"kind": "report", "verdict": "succeeded", "at": "now"},
            {"kind": "report", "verdict": 7, "at": 1.0},
            {"kind": "idle"},
        ):
            context._channel.send(
                message.pop("kind"), **message, fds=[os.dup(nothing.fileno())]
            )
        raw = context._channel._socket
        raw.setblocking(True)
        for line in (b"\x80\x04cos\nsystem\n", b"[" * 100_000, b"x" * 3_000_000):
            raw.sendall(b"\n" + line + b"\n")
        raw.setblocking(False)


def leave_daemons_behind(args, context):
    """Have so many grandchildren that nobody waits for: each is forked twice."""
    for _ in range(args[0]):
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
            os._exit(0)


def fork_and_return(args, context):
    """Fork a process that says what it has of the try, and ends as the task could."""
    path, how = args
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    context.progress(99)
    say_surroundings([path], context)
    if how == "raises":
        raise ValueError("of the fork")


def fork_deafly(args, context):
    signal.signal(signal.SIGTERM, on_hup_of_the_project)
    fork_and_return([args[0], "returns"], context)


def fork_idly(args, context):
    count, seconds = args
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(seconds)
            os._exit(0)
    for _ in range(count):
        os.wait()


def say_surroundings(args, context):
    wakeup_fd = signal.set_wakeup_fd(-1)
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    about = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "group": os.getpgrp(),
        "sockets": sum(link.startswith("socket:") for link in links),
        "files": sorted(re.sub("[0-9]+", "N", link) for link in links),
        "wakeup_fd": wakeup_fd,
        "sigterm": str(signal.getsignal(signal.SIGTERM)),
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "sigchld": str(signal.getsignal(signal.SIGCHLD)),
        "sigint": str(signal.getsignal(signal.SIGINT)),
        "sighup": str(signal.getsignal(signal.SIGHUP)),
        "children": [child.pid for child in psutil.Process().children()],
        "random": random.random(),
    }
    write([args[0], json.dumps(about)], context)


def say_open_files(args, context):
    write([args[0], json.dumps(resource.getrlimit(resource.RLIMIT_NOFILE))], context)


def write_to_standard_output(args, context):
    print("printed")
    os.write(1, b"written\n")
    say_pid(args[0])


def prepare_badly_for_a_while(environment):
    """Let the first process become the project, not the next four, and all others."""
    for number in range(100):
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(environment["folder"], str(number)))
            break
    if 1 <= number <= 4:
        raise RuntimeError("no such database yet")


def prepare_when_allowed(environment):
    while not os.path.exists(environment["gate"]):
        time.sleep(0.02)


# What a task leaves to the next one in its process


def say_pid_in(args, context):
    write([args[0], str(os.getpid())], context)


def say_pid_and_fail(args, context):
    say_pid_in(args, context)
    raise ValueError("as it should")


def say_that_it_leaves(args, context):
    context.leave_with = lambda: write([args[0], f"{os.getpid()} leaves"], context)


def say_that_it_leaves_with_a_thread(args, context):
    say_that_it_leaves(args, context)
    leave_a_thread_behind(args, context)


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def change_the_surroundings(args, context):
    os.chdir("/")
    os.umask(0o777)
    signal.signal(signal.SIGUSR1, on_hup_of_the_project)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.alarm(3600)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    VARIABLE.set("changed")
    write_surroundings(args, context)


def write_surroundings(args, context):
    os.umask(umask := os.umask(0))
    found = {
        "pid": os.getpid(),
        "folder": os.getcwd(),
        "umask": umask,
        "handlers": str(
            [signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGALRM)]
        ),
        "alarm": signal.alarm(0),
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "variable": VARIABLE.get(),
    }
    write([args[0], json.dumps(found)], context)


def start_a_thread_and_join_it(args, context):
    say_pid_in(args, context)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def leave_a_thread_in(args, context):
    say_pid_in(args, context)
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def leave_a_subprocess_in(args, context):
    say_pid_in(args, context)
    leave_a_subprocess_behind([args[1]], context)


def leave_a_zombie_in(args, context):
    say_pid_in(args, context)
    if os.fork() == 0:
        os._exit(0)


def do_and_say(args, context):
    """Say who one is, then do something else of this module."""
    path, what, *rest = args
    say_pid_in([path], context)
    globals()[what](rest, context)


def leak(args, context):
    say_pid_in(args[:1], context)
    left_open.append(b"x" * args[1])


def term_itself_in_passing(args, context):
    """Be signalled, and not be stopped by it."""
    say_pid_in(args, context)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)


def print_lines(args, context):
    """Print to both streams, from Python, from C and from a subprocess."""
    print("from python")
    print("to stderr", file=sys.stderr)
    ctypes.CDLL(None).write(1, b"from c\n", 7)
    subprocess.run(["echo", "from a subprocess"])
    sys.stdout.write("without an end")


def print_and_die(args, context):
    print("the last words")
    segfault(args, context)


def print_much(args, context):
    """Print so many bytes, as lines of 64 or as one."""
    size, line_end = args
    os.write(1, b"the first\n")
    chunk = (b"x" * 63 + line_end.encode()) * 1024
    for _ in range(size // len(chunk)):
        left = memoryview(chunk)
        while left:
            left = left[os.write(1, left) :]
    os.write(1, b"the last\n")


def print_after_the_report(args, context):
    """Print when the process leaves, after its report."""
    import logging

    class Late(logging.Handler):
        def emit(self, record):
            pass

        def flush(self):
            os.write(1, b"late words\n")

    logging.getLogger("late").addHandler(Late())


def a_well_known_function(args, context):
    time.sleep(args[0])


def ignore_term_and_sleep(args, context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    a_well_known_function(args, context)


def block_term_and_spin_in_c(args, context):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    pow(3, 10**9)


def burn(args, context):
    until = time.process_time() + args[0]
    while time.process_time() < until:
        pass


def catch_everything(args, context):
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)


def hold_memory_and_say(args, context):
    path, size, seconds = args
    held = bytearray(size)
    held[::4096] = b"x" * len(held[::4096])
    say_pid(path)
    time.sleep(seconds)
    del held


def grow_for_ever(args, context):
    held = []
    while True:
        held.append(bytearray(b"x" * 2**20))
        time.sleep(0.001)  # no faster than a late look at it can bear


def map_shared_memory(args, context):
    held = mmap.mmap(-1, args[0])
    for at in range(0, len(held), 4096):
        held[at] = 1
    time.sleep(600)


def share_memory(args, context):
    from multiprocessing import shared_memory

    block = shared_memory.SharedMemory(create=True, size=args[0])
    try:
        for at in range(0, args[0], 4096):
            block.buf[at] = 1
        time.sleep(600)
    finally:
        block.close()
        block.unlink()


def start_threads(args, context):
    threads = [threading.Thread(target=time.sleep, args=(0.5,)) for _ in range(args[0])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def start_short_lived_children(args, context):
    for _ in range(args[0]):
        subprocess.run(["true"], check=True)


def pool_of_four(args, context):
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(abs, range(-8, 0)) == list(range(8, 0, -1))
    time.sleep(args[0])


def prepare_heavily(environment):
    """Become a project of so many bytes."""
    prepare_heavily.held = bytearray(environment["size"])
    prepare_heavily.held[::4096] = b"x" * len(prepare_heavily.held[::4096])


def allocate(args, context):
    bytearray(args[0])


def tell_of_progress(args, context):
    path, steps, pause = args
    for step in range(1, steps + 1):
        context.progress(step, steps, f"step {step}")
        time.sleep(pause)
    while not os.path.exists(path):
        context.progress(steps, steps, f"step {steps}")
        time.sleep(pause)


def say_sandbox(args, context):
    import tempfile

    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    folder = tempfile.mkdtemp()
    with open(args[0], "w") as file:
        json.dump(
            {
                "stdin": os.readlink("/proc/self/fd/0"),
                "core": soft,
                "nice": os.getpriority(os.PRIO_PROCESS, 0),
                "oom_score_adj": Path("/proc/self/oom_score_adj").read_text().strip(),
                "TMPDIR": os.environ["TMPDIR"],
                "folder": folder,
            },
            file,
        )
    if len(args) > 1:
        os.mkdir(os.path.join(folder, "locked"))
        with open(os.path.join(folder, "locked", "file"), "w"):
            pass
        os.chmod(os.path.join(folder, "locked"), 0)
        os.kill(os.getpid(), signal.SIGKILL)


def have_a_session(args, context):
    context.session({"alias": "other", "number": 7, "since": "then"})
    if args:
        time.sleep(args[0])


def hold_memory_in_a_session(args, context):
    code = (
        f"b = bytearray({args[0]}); b[::4096] = b'x' * len(b[::4096]); "
        "import time; time.sleep(600)"
    )
    subprocess.run([sys.executable, "-c", code], start_new_session=True)


def hold_and_catch(args, context):
    held = bytearray(args[0])
    while held:
        with contextlib.suppress(BaseException):
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(600)


def use_numpy(args, context):
    import numpy

    a = numpy.ones((500, 500))
    assert (a @ a)[0][0] == 500
