"""What a folder of cells comes to: outcomes, statistics, tables, plots, the report."""
