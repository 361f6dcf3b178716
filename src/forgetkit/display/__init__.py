"""What a terminal or a notebook shows: consoles, progress, tables. Import this package lazily: it imports rich."""
