"""The directory of a run and its files."""

from forgetkit.storage.atomic_files import (
    own_folder,
    read_json,
    read_with_digest,
    write_atomically,
    write_json,
    write_output,
    write_with_digest,
)
from forgetkit.storage.checkpoints import load_state, save_state
from forgetkit.storage.events import event_in, events_in, line_of
from forgetkit.storage.initial_weights import InitialWeights
from forgetkit.storage.recorder import Recorder
from forgetkit.storage.run_directory import SCHEMA, Checkpoint, RunDirectory, result_from, resume_command

__all__ = [
    "SCHEMA",
    "Checkpoint",
    "InitialWeights",
    "Recorder",
    "RunDirectory",
    "event_in",
    "events_in",
    "line_of",
    "load_state",
    "own_folder",
    "read_json",
    "read_with_digest",
    "result_from",
    "resume_command",
    "save_state",
    "write_atomically",
    "write_json",
    "write_output",
    "write_with_digest",
]
