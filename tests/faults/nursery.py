"""Forks forgetkit commands from a process that has imported torch: real children in milliseconds.

A line of JSON on standard input starts one. Two lines answer: its process id and, once it has ended, its exit
status (negative: the signal that killed it).
"""

import json
import os
import sys

from forgetkit import cli
from forgetkit.cli import screen  # noqa: F401 - imported late by the command, so here for the children

for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(asked["cwd"])
        os.environ.update(asked["env"])
        for number, path in ((1, asked["out"]), (2, asked["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o644), number)
        sys.exit(cli.main(asked["words"]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
