"""What a terminal shows: consoles, progress, tables. rich is imported here, and this room where something is shown."""
