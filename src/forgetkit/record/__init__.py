"""A run's directory and what is written there."""

from forgetkit.record.checkpoints import load_state, save_state
from forgetkit.record.directory import SCHEMA, ResumePoint, RunDirectory, result_from, resume_command
from forgetkit.record.events import event_in, events_in, line_of
from forgetkit.record.files import (
    own_folder,
    read_json,
    read_sealed,
    write_atomically,
    write_json,
    write_output,
    write_sealed,
)
from forgetkit.record.initial_weights import InitialWeights
from forgetkit.record.recorder import Recorder

__all__ = [
    "SCHEMA",
    "InitialWeights",
    "Recorder",
    "ResumePoint",
    "RunDirectory",
    "event_in",
    "events_in",
    "line_of",
    "load_state",
    "own_folder",
    "read_json",
    "read_sealed",
    "result_from",
    "resume_command",
    "save_state",
    "write_atomically",
    "write_json",
    "write_output",
    "write_sealed",
]
