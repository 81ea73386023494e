"""The tables of a study, from its tidy tables alone, as Markdown, LaTeX and CSV.

table         a table as a value; markdown, latex, csv write one
frame         tidy tables as columns; results: one study by its tables, with its draws
names         how pipelines are printed, and the matched comparisons
metrics, main, descriptions, differences, flips   the numbers behind the tables
writing       all of them
"""

from __future__ import annotations

from segcal.study.tables.results import Results
from segcal.study.tables.table import Cell, Column, Number, Row, Section, Table, Text
from segcal.study.tables.writing import tables, write

__all__ = ["Cell", "Column", "Number", "Results", "Row", "Section", "Table", "Text", "tables", "write"]
