"""start_process() and end_process(): a child process with a pipe, which ends together with all its descendants."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

EXIT_SECONDS = 5.0  # between the end of a pipe and the end of its process


def start_process(module: str, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start `python -m MODULE FD` in a session of its own; return it and this side of the pipe at descriptor FD.

    Unlike `multiprocessing`, the child does not import this process's main module, so that what it holds does not
    depend on who started it. It finds the same packages; what it prints goes to stderr.
    """
    ours, theirs = Pipe()
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    process = subprocess.Popen(
        # -u: what it prints is not lost when it is killed; -P: no module is taken from where it starts
        [sys.executable, "-u", "-P", "-m", module, str(theirs.fileno())],
        env={**os.environ, **environment, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL, stdout=2, pass_fds=[theirs.fileno()], start_new_session=True,
    )  # fmt: skip
    theirs.close()
    return process, ours


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of start_process() with all its descendants, and return when none of them runs any more."""
    import psutil

    try:
        descendants = psutil.Process(process.pid).children(recursive=True)  # those in sessions of their own too
    except psutil.NoSuchProcess:
        descendants = []
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in descendants:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    psutil.wait_procs(descendants)


def exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a process that is about to end (minus the signal), or None when it still runs.

    It stays a zombie for end_process(): its number must not be given to another process before.
    """
    until = time.monotonic() + EXIT_SECONDS
    while time.monotonic() < until:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if ended is not None:
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        time.sleep(0.01)
    return None
