"""What was really done to the images of shifted cohorts: the record that `segcal corrupt` leaves beside them.

A cohort says where its images are (`images`); their folder, or for replicates the one above, holds corruptions.csv.
Only images of cases of the cohort are told of. Images that nothing is known of, or none named: no row.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from segcal.data.formats.label_maps import stem
from segcal.errors import UnreadableError
from segcal.study.configuration import CLEAN
from segcal.study.design import Design
from segcal.study.results import Rows
from segcal.study.shift.folder import TABLE

COLUMNS = ("file", "kind", "severity", "parameters")


def applied(design: Design) -> Rows:
    """A row an image of a case of a shifted cohort. UnreadableError for a record that is none."""
    out: Rows = []
    for name, cohort in design.cohorts.items():
        images = None if name == CLEAN else design.configuration.cohorts[name].images
        record = None if images is None else _record(Path(images))
        if record is None:
            continue
        ids = {case.id for case in cohort}
        for row in _rows(record):
            path = record.parent / row["file"]
            if path.parent.resolve() == Path(str(images)).resolve() and ids & {stem(path), stem(path)[:-5]}:
                out.append({"cohort": name, **row})
    return out


def _record(images: Path) -> Path | None:
    there = [folder / TABLE for folder in (images, images.parent)]
    return next((path for path in there if path.is_file()), None)


def _rows(record: Path) -> Rows:
    try:
        with record.open(newline="", encoding="utf-8") as file:
            rows = [{name: row[name] for name in COLUMNS} for row in csv.DictReader(file, strict=True)]
        for row in rows:
            if not all(isinstance(v, int | float | list) for v in dict(json.loads(row["parameters"])).values()):
                raise ValueError("parameters that are no numbers")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UnreadableError(
            str(record),
            found=f"no record of corruptions ({' '.join(str(error).split())[:100]})",
            expected=f"the table that segcal corrupt wrote: {', '.join(COLUMNS)}",
            do="Corrupt the images again, or leave `images` out of the cohort.",
        ) from error
    return rows
