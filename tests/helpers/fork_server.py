"""Forks forgetkit commands from a process that has imported torch: real children in milliseconds.

Requests come over the socket whose number is the argument, a line of JSON each. One with ``words``, and with the
standard output and error to use, starts a child; its process id is the answer. With ``before``, the path of a module,
the name of a function there and its arguments by name, the child calls that first. One with ``wait``, a process id, is
answered once that child has ended, by its exit status (negative: the signal that killed it).
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import torch

import forgetkit.engine.dry_run
from forgetkit import cli
from forgetkit.ablation import plan  # noqa: F401 - what the commands import late, the children have at once
from forgetkit.builtin.executors import local
from forgetkit.display import cell_display, run_display, table_view  # noqa: F401
from forgetkit.registry import registry
from forgetkit.system.interrupts import SIGNALS


class Worker:
    """As the executor ``local`` would start a worker with ``subprocess.Popen``, but forked too."""

    def __init__(self, command, *, env, stdin, stdout, pass_fds, start_new_session):
        assert (stdin, stdout, start_new_session) == (subprocess.DEVNULL, 2, True)
        self.returncode = None
        sys.stdout.flush()
        signals = [getattr(signal, name) for name in SIGNALS]
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # what a handler raises amid Python's own work here is lost
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for number in signals:
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            os.environ.clear()
            os.environ.update(env)
            os.dup2(2, 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            [kept] = pass_fds
            os.closerange(3, kept)
            os.closerange(kept + 1, 1024)
            sys.unraisablehook = lambda _: None  # the parent's connections are closed, and collected here as garbage
            status = 1
            try:
                exec(command[2], {})
                status = 0
            except SystemExit as leaving:
                status = leaving.code
            finally:
                os._exit(status)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def wait(self, timeout=None):
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            except ChildProcessError:  # a signal came as it was waited for: its status is lost, as Popen has it
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise subprocess.TimeoutExpired("worker", timeout)
            else:
                time.sleep(0.002)
        return self.returncode


def carry_out(asked, streams):
    """In a process of its own: the command, to the end of that process."""
    os.chdir(asked["cwd"])
    os.environ.update(asked["env"])
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    channel.close()
    for name in SIGNALS:  # whatever whoever runs the tests has ignored
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Python's own streams remember what kind of files stood behind them.
    encoding = asked["env"].get("PYTHONIOENCODING")
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", encoding=encoding, closefd=False, buffering=1)
    sys.argv[1:] = asked["words"]
    if "before" in asked:
        module, function, arguments = asked["before"]
        sys.path.insert(0, str(Path(module).parent))
        getattr(importlib.import_module(Path(module).stem), function)(**arguments)
    status = cli.main(asked["words"])
    sys.stdout.flush()
    os._exit(status)  # Python's own way out takes torch a second


registry.load()
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0).zero_grad()  # imports as much as torch itself

forgetkit.engine.dry_run._SECONDS = 0.0  # no test asks how good the estimate is
os.fsync = lambda descriptor: None  # what a loss of power leaves is simulated
local.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": Worker})

channel = socket.socket(fileno=int(sys.argv[1]))
while True:
    line, streams, _, _ = socket.recv_fds(channel, 65536, 2)
    if not line:
        break
    asked = json.loads(line)
    if "wait" in asked:
        answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            carry_out(asked, streams)
        for stream in streams:
            os.close(stream)
    channel.sendall(f"{answer}\n".encode())
