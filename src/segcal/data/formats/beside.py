"""What lies beside the scores of a case, in folders of its own: the image that was segmented, what the network says of
copies of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from segcal.data.case import Field, Provenance
from segcal.data.formats.case_copies import CaseCopies
from segcal.data.formats.case_images import CaseImages
from segcal.data.formats.nifti import Axes
from segcal.data.formats.request import Request


@dataclass(frozen=True)
class Beside:
    """The folders that a request names."""

    images: CaseImages | None
    copies: CaseCopies | None

    @classmethod
    def find(cls, request: Request) -> Beside:
        """What is in them. MissingError for a folder without."""
        return cls(
            None if request.images is None else CaseImages.find(request.images),
            None if request.copies is None else CaseCopies.find(request.copies),
        )

    def of(self, case: str, shape: tuple[int, ...], axes: Axes, channels: int) -> dict[str, Field]:
        """Fields of a case whose scores have so many `channels` of this spatial `shape`; MissingError where the case
        has none.
        """
        fields = {} if self.images is None else {"image": self.images.of(case, shape, axes)}
        if self.copies is not None:
            fields |= self.copies.of(case, shape, channels, fields.get("image"))
        return fields

    def told(self, provenance: Provenance) -> Provenance:
        """With how copies were made."""
        if self.copies is None:
            return provenance
        return replace(provenance, recorded=(*(provenance.recorded or ()), self.copies.told))
