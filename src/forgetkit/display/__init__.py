"""What a terminal or a notebook shows: consoles, progress, tables. Import this room, and with it rich, late."""
