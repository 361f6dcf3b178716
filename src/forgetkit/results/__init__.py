"""Results of a folder of cells: outcomes, statistics, tables, plots, the report."""
