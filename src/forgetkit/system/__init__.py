"""The operating system and torch's process-wide settings: signals, memory, files, locks."""
