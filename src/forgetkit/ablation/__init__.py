"""Grids of runs: which cells there are, how they are carried out, what they result in."""
