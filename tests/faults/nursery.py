"""Forks forgetkit commands from a process that has imported torch: real children in milliseconds.

Over the socket whose number is the argument comes a line of JSON with the standard output and error to use. Two
lines answer: the child's process id and, once it has ended, its exit status (negative: the signal that killed it).
"""

import json
import os
import signal
import socket
import sys

import torch

import forgetkit.rehearsal
from forgetkit import cli, registry
from forgetkit.cli import screen  # noqa: F401 - what the command imports late, the children have at once

registry.load()
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0).zero_grad()  # imports as much as torch itself

forgetkit.rehearsal._SECONDS = 0.1  # no test asks how good the estimate is

channel = socket.socket(fileno=int(sys.argv[1]))
while True:
    line, streams, _, _ = socket.recv_fds(channel, 65536, 2)
    if not line:
        break
    child = os.fork()
    if child == 0:
        asked = json.loads(line)
        os.chdir(asked["cwd"])
        os.environ.update(asked["env"])
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
            os.close(stream)
        channel.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Python's own streams remember what kind of files stood behind them.
        encoding = asked["env"].get("PYTHONIOENCODING")
        sys.stdout = os.fdopen(1, "w", encoding=encoding, closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding=encoding, closefd=False, buffering=1)
        status = cli.main(asked["words"])
        sys.stdout.flush()
        os._exit(status)  # Python's own way out takes torch a second
    for stream in streams:
        os.close(stream)
    channel.sendall(f"{child}\n".encode())
    channel.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
