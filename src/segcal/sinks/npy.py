"""One plain .npy a case, ready to be memory-mapped; maps as MAP/CASE.npy.

Promises: `np.load` gives the delivered float32 values bit for bit, shape (channels, *spatial); equal input, equal
bytes. Costs: see `gathering`; not compressed. When there is nothing: `finish` has nothing to write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from segcal.cases import Case, Cohort
from segcal.journal import Scratch
from segcal.sinks import streams
from segcal.sinks.gathering import Gathered, gather
from segcal.sinks.maps import Requested
from segcal.sinks.placing import check_targets, output, placed


class NpySink:
    """Writes CASE.npy.

    `maps`: names of maps to write beside; `classes`: names of the channels, needed for the map 'probability'.
    """

    def __init__(self, folder: Path, maps: Sequence[str] = (), classes: Sequence[str] = ()) -> None:
        self._folder, self._maps = Path(folder), Requested(tuple(maps), tuple(classes))

    @contextlib.contextmanager
    def case(self, cohort: Cohort, case: Case, scratch: Scratch) -> Iterator[Gathered]:
        """Open `case` for writing."""
        targets = self.outputs(case)
        check_targets(case, targets)
        with gather(cohort, case, self._maps, scratch) as gathered:
            yield gathered
            gathered.check_complete()
            with placed(targets) as parts:
                streams.write_npy(parts[0], gathered.channels(), (cohort.head.channels, *case.shape))
                for part, wanted in zip(parts[1:], self._maps.maps, strict=True):
                    streams.write_npy(part, [gathered.map(wanted)], case.shape)

    def finish(self, cohort: Cohort) -> None:
        """Nothing belongs to the whole folder."""

    def shared(self, cohort: Cohort) -> list[Path]:
        """No file belongs to the whole folder."""
        return []

    def outputs(self, case: Case) -> list[Path]:
        """Files that `case` will leave."""
        return [
            output(self._folder, case, ".npy"),
            *(output(self._folder, case, ".npy", m.folder) for m in self._maps.maps),
        ]
