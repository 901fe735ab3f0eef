"""start_process() and end_process(): a child process with a pipe, which is killed together with its descendants."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

EXIT_SECONDS = 5.0  # how long to wait for the exit of a process that closed its pipe


def start_process(module: str, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start `python -m MODULE FD` in its own session; return the process and our end of the pipe at descriptor FD.

    Unlike a `multiprocessing` child, the process does not import the main module of its parent, so that its memory
    does not depend on the program that started it. It has the same module search path. Its output goes to stderr.
    """
    parent_end, child_end = Pipe()
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    process = subprocess.Popen(
        # -u: output is not lost when it is killed; -P: no module is imported from the working directory
        [sys.executable, "-u", "-P", "-m", module, str(child_end.fileno())],
        env={**os.environ, **environment, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL, stdout=2, pass_fds=[child_end.fileno()], start_new_session=True,
    )  # fmt: skip
    child_end.close()
    return process, parent_end


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of start_process() with all its descendants, and wait until all have exited."""
    import psutil

    try:
        descendants = psutil.Process(process.pid).children(recursive=True)  # includes those in other sessions
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
    """Return the exit code of a process that is about to exit (minus the signal number), or None if it still runs.

    The process stays a zombie until end_process(), so that its pid is not reused before.
    """
    deadline = time.monotonic() + EXIT_SECONDS
    while time.monotonic() < deadline:
        status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if status is not None:
            return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
        time.sleep(0.01)
    return None
