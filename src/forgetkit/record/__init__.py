"""A run's directory and what is written there."""

from forgetkit.record.checkpoints import load_state, save_state
from forgetkit.record.directory import SCHEMA, ResumePoint, RunDirectory
from forgetkit.record.files import read_json, write_atomically, write_json
from forgetkit.record.recorder import Recorder

__all__ = [
    "SCHEMA",
    "Recorder",
    "ResumePoint",
    "RunDirectory",
    "load_state",
    "read_json",
    "save_state",
    "write_atomically",
    "write_json",
]
