"""Real processes over gloo that carry out the same function together."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from forgetkit.errors import ForgetkitError

SIZE = 3
WAIT = 60  # seconds, for a test that hangs to fail


def serve(rank: int, channel: Connection, store: Path) -> None:
    """One process: carries out what it is sent, until that is None; an error is an answer."""
    sys.path.append(str(Path(__file__).parents[2]))  # the functions are those of tests.unlearning.test_…
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", store=distributed.FileStore(str(store), SIZE), rank=rank, world_size=SIZE)
    while (asked := pickle.loads(channel.recv_bytes())) is not None:
        function, arguments = asked
        try:
            answer = function(*arguments)
        except ForgetkitError as error:
            answer = error
        except Exception as error:  # noqa: BLE001
            answer = RuntimeError("".join(traceback.format_exception(error)))
        channel.send_bytes(pickle.dumps(answer))
    distributed.destroy_process_group()


class Ranks:
    """The processes, and a function to be called in all of them at once."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")  # imports torch once and forks
        context.set_forkserver_preload(["forgetkit", "torch.distributed.fsdp", "torch.distributed.tensor", __name__])
        pairs = [context.Pipe() for _ in range(SIZE)]
        self.channels = [mine for mine, _ in pairs]
        self.processes = [
            context.Process(target=serve, args=(rank, theirs, folder / "store"), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for process in self.processes:
            process.start()

    def __call__(self, function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
        """What each process answers; the n-th of each of the ``arguments`` goes to the n-th."""
        for channel, own in zip(self.channels, zip(*arguments, strict=True), strict=True):
            channel.send_bytes(pickle.dumps((function, own)))
        assert all(channel.poll(WAIT) for channel in self.channels), "the processes wait for each other"
        return [pickle.loads(channel.recv_bytes()) for channel in self.channels]

    def close(self) -> None:
        for channel in self.channels:
            channel.send_bytes(pickle.dumps(None))
        for process in self.processes:
            process.join(WAIT)
            process.kill()
