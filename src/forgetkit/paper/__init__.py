"""The tables of the paper: as data, as grids at several scales, and beside what was measured."""
