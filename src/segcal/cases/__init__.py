"""Cases, cohorts, the blocks they are cut into and the rows made of them."""

from segcal.cases.case import (
    BLOCK,
    IGNORED,
    OUTSIDE,
    PADDING,
    ROLES,
    SCORED,
    Case,
    Field,
    Origin,
    Provenance,
    Window,
    block_length,
)
from segcal.cases.cohort import CaseReader, Cohort, Damaged, FieldWindows, refusal
from segcal.cases.padding import Box, UnrecordedBox, found_note, hidden_note
from segcal.cases.rows import Block, Note, Prepared, Record, Rows
from segcal.cases.storage import Storage

__all__ = [
    "BLOCK",
    "IGNORED",
    "OUTSIDE",
    "PADDING",
    "ROLES",
    "SCORED",
    "Block",
    "Box",
    "Case",
    "CaseReader",
    "Cohort",
    "Damaged",
    "Field",
    "FieldWindows",
    "Note",
    "Origin",
    "Prepared",
    "Provenance",
    "Record",
    "Rows",
    "Storage",
    "UnrecordedBox",
    "Window",
    "block_length",
    "found_note",
    "hidden_note",
    "refusal",
]
