"""Forks forgetkit commands from a process that has imported torch: real children in milliseconds.

The argument is the number of a socket. Each request is a line of JSON on it. A request with ``words``, and with two
file descriptors for standard output and error, starts a child and is answered by its process id. ``before`` names a
module's path, a function there and its arguments; the child calls it first. A request with ``wait``, a process id, is
answered by that child's exit status once it has ended (negative: the signal that killed it). A request with
``worker``, the code of a worker of the executor ``local``, and with its connection and standard error starts a worker.
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
from forgetkit.ablation import plan  # noqa: F401 - commands import these modules late, children have them at once
from forgetkit.builtin.executors import local
from forgetkit.display import cell_display, run_display, table_view  # noqa: F401
from forgetkit.registry import registry
from forgetkit.system.interrupts import SIGNALS


def become_worker(code, env, connection, number):
    """Become a worker of the executor ``local``, with its connection as file descriptor ``number``."""
    signals = [getattr(signal, name) for name in SIGNALS]
    os.setsid()
    for one in signals:
        if signal.getsignal(one) != signal.SIG_IGN:
            signal.signal(one, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(connection, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    os.closerange(3, number)
    os.closerange(number + 1, 1024)
    sys.unraisablehook = lambda _: None  # collecting the parent's connections fails: they are closed here
    status = 1
    try:
        exec(code, {})
        status = 0
    except SystemExit as leaving:
        status = leaving.code
    finally:
        os._exit(status)


class Worker:
    """A worker of the executor ``local``, forked in place of ``subprocess.Popen``."""

    def __init__(self, command, *, env, stdin, stdout, pass_fds, start_new_session):
        assert (stdin, stdout, start_new_session) == (subprocess.DEVNULL, 2, True)
        self.returncode = None
        sys.stdout.flush()
        signals = [getattr(signal, name) for name in SIGNALS]
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # Python loses what a handler raises during a fork
        self.pid = os.fork()
        if self.pid == 0:
            become_worker(command[2], env, *pass_fds, *pass_fds)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def wait(self, timeout=None):
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            except ChildProcessError:  # a signal during the wait loses the status, as in Popen
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise subprocess.TimeoutExpired("worker", timeout)
            else:
                time.sleep(0.002)
        return self.returncode


def run_command(request, streams):
    """Become the command; never returns."""
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    channel.close()
    for name in SIGNALS:  # the caller of the tests may ignore some
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Python's own streams remember the kind of the files that they were opened on.
    encoding = request["env"].get("PYTHONIOENCODING")
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", encoding=encoding, closefd=False, buffering=1)
    sys.argv[1:] = request["words"]
    if "before" in request:
        module, function, arguments = request["before"]
        sys.path.insert(0, str(Path(module).parent))
        getattr(importlib.import_module(Path(module).stem), function)(**arguments)
    status = cli.main(request["words"])
    sys.stdout.flush()
    os._exit(status)  # torch needs a second for an ordinary exit


registry.load()
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0).zero_grad()  # imports as much as torch itself

forgetkit.engine.dry_run._SECONDS = 0.0  # no test needs a good estimate
os.fsync = lambda descriptor: None  # tests simulate a loss of power
local.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": Worker})

channel = socket.socket(fileno=int(sys.argv[1]))
while True:
    line, streams, _, _ = socket.recv_fds(channel, 65536, 2)
    if not line:
        break
    request = json.loads(line)
    if "wait" in request:
        answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0 and "worker" in request:
            os.chdir(request["cwd"])
            os.dup2(streams[1], 2)
            become_worker(request["worker"], request["env"], streams[0], request["number"])
        elif answer == 0:
            run_command(request, streams)
        for stream in streams:
            os.close(stream)
    channel.sendall(f"{answer}\n".encode())
