"""Replay strategies: which samples of earlier mega-batches stay for training."""

from collections.abc import Mapping

from forgetkit.builtin.replay.buffer import Buffer
from forgetkit.builtin.replay.full import Full
from forgetkit.builtin.replay.last import Last
from forgetkit.builtin.replay.none import NoReplay
from forgetkit.contracts import Replay
from forgetkit.registry.hookspecs import hookimpl


@hookimpl
def forgetkit_replay() -> Mapping[str, type[Replay]]:
    """Return the paper's three strategies, and the previous mega-batch alone."""
    return {"buffer": Buffer, "full": Full, "last": Last, "none": NoReplay}
