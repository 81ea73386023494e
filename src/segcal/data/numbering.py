"""How label maps are numbered, where it is not as the channels are.

A `Numbering` reads labels under other numbers: `{255: 1}` for a mask of 0 and 255, `{1: 0, 2: 1}` for labels one above
the channels, `{2: 1}` to count two as one, `{3: None}` to leave one out. Labels that are not named keep their number.
Promises: no class is counted as another by accident: where numbers are handed on (1 becomes 0, 2 becomes 1), a label
that is not named although its number was given away is a LabelError. What is said of a label out of range names all
labels of the case with their counts, and the numbering that would help; to leave a label out is advised only where it
cannot be one of the classes. No label: nothing to do.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segcal.errors import LabelError, UsageError

LEFT_OUT = "ignore"
"""What a label is called that is left out, where numbers are typed."""

NO_LABEL = -(2**31)
"""Stands where there is no label to score, beside the head's ignored one."""

SHOWN = 8
"""Labels named in a message."""

VOID = (254, 255, 65534, 65535)
"""Numbers that mark voxels without a label in many data sets, as negative ones do."""

Numbers = Mapping[int, int | None]
"""From numbers in label maps to numbers of classes; None: left out."""


@dataclass(frozen=True)
class Numbering:
    """Numbers of labels as stored, and what each is read as; None: left out. Sorted by the first."""

    pairs: tuple[tuple[int, int | None], ...]

    @classmethod
    def of(cls, label_map: Numbers | None, left_out: Iterable[int], highest: int, ignored: int | None) -> Numbering:
        """From what a user says: `label_map`, and labels that are `left_out` beside the `ignored` one of the head.

        UsageError for a class above `highest`, and for a label that is a class and left out.
        """
        told: dict[int, int | None] = {}
        for old, new in (label_map or {}).items():
            told[checked(old, "label_map")] = None if new is None else checked(new, "label_map")
        for old, new in told.items():
            if new is not None and new != ignored and not 0 <= new <= highest:
                raise UsageError(
                    "label_map",
                    found=f"{old} as {new}",
                    expected=f"the number of a class, 0 to {highest}, or {LEFT_OUT}",
                    do="Give the number of the class's channel, counted from 0.",
                )
        out = [checked(label, "ignore_index") for label in left_out]
        for label in [*out, *([] if ignored is None else [ignored])]:
            if told.get(label, ignored) not in (None, ignored):
                raise UsageError(
                    "label_map",
                    found=f"{label} as {told[label]}, and {label} as a label that is never scored",
                    expected="one or the other",
                    do="Leave it out of one of them.",
                )
        return cls(tuple(sorted((told | dict.fromkeys(out)).items())))

    @property
    def given_away(self) -> list[int]:
        """Numbers that only other labels were to have: none where numbers are not handed on."""
        told = dict(self.pairs)
        handed_on = any(new in told and told[new] != new for new in told.values())
        return sorted({new for new in told.values() if new is not None} - told.keys()) if handed_on else []

    def read(self, labels: Tensor, counted: Tensor, where: str) -> tuple[Tensor, Tensor]:
        """Labels (n,) under their new numbers, and which of them are left out.

        LabelError, naming `where`, where a voxel that is `counted` (n,) carries a number that was `given_away`.
        """
        old = torch.tensor([old for old, _ in self.pairs])
        new = torch.tensor([NO_LABEL if new is None else new for _, new in self.pairs])
        at = torch.searchsorted(old, labels).clamp_max(len(old) - 1)
        named = old[at] == labels
        mixed = labels[torch.isin(labels, torch.tensor(self.given_away, dtype=torch.int64)) & ~named & counted]
        if mixed.numel():
            label = int(mixed[0])
            other = next(old for old, new in self.pairs if new == label)
            both, without = (f"{label}:{label}", f"{label}:{LEFT_OUT}")
            raise LabelError(
                where,
                found=f"label {label}, which is not in the label map, beside {other}, which it reads as {label}",
                expected=f"what {label} itself is",
                do=f"Add {both} to --label-map if it is the same class, {without} if it is never to be scored.",
            )
        return torch.where(named, new[at], labels), named & (new[at] == NO_LABEL)

    def __str__(self) -> str:
        told = [f"{old} as {new}" for old, new in self.pairs if new is not None]
        read = f"labels are read {', '.join(told[:SHOWN])}{', ...' if len(told) > SHOWN else ''}" if told else ""
        out = [str(old) for old, new in self.pairs if new is None]
        left = f"{', '.join(out[:SHOWN])}{', ...' if len(out) > SHOWN else ''} never scored" if out else ""
        return "; ".join(filter(None, (read, left)))


def checked(label: object, where: str) -> int:
    """A label that an array of integers can hold; UsageError for anything else."""
    try:
        number = operator.index(label)  # type: ignore[arg-type]  # what is no integer is told so
    except TypeError as error:
        raise UsageError(
            where,
            found=f"a label {label!r}",
            expected="a whole number",
            do="Give numbers as label maps hold them, such as 255.",
        ) from error
    if not -(2**63) <= number < 2**63:
        raise UsageError(
            where,
            found="a number of more than 64 bits",
            expected="a label of 64 bits or fewer",
            do="Give the label that marks voxels without one, such as 255.",
        )
    return number


def listed(labels: int | Sequence[int] | None) -> tuple[int, ...]:
    """One ignored label, several, or none, each checked and named once."""
    several = () if labels is None else labels if isinstance(labels, Sequence) else (labels,)
    return tuple(dict.fromkeys(checked(label, "ignore_index") for label in several))


def counted(labels: Tensor) -> dict[int, int]:
    """Voxels by label."""
    found, counts = torch.unique(labels, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def out_of_range(
    counts: Mapping[int, int], labels: int, ignored: int | None, where: str, given: Numbering | None = None
) -> LabelError:
    """What is said of labels that are neither ignored nor from 0 to `labels` - 1.

    `counts`: voxels by label, of all that count in the case at `where`; `given`: how they were read, left-out ones
    apart.
    """
    own = sorted(label for label in counts if 0 <= label < labels and label != ignored)
    strange = sorted(label for label in counts if not 0 <= label < labels and label != ignored)
    total, many = sum(counts.values()), sum(counts[label] for label in strange)
    shown = f"[{', '.join(map(str, strange[:SHOWN]))}{', ...' if len(strange) > SHOWN else ''}]"
    beside = f", beside {', '.join(map(str, own[:SHOWN]))}{', ...' if len(own) > SHOWN else ''}" if own else ""
    return LabelError(
        where,
        found=f"labels {shown} in {many:,} of {total:,} voxels{beside}",
        expected=f"0 to {labels - 1}" + (f" or the ignored {ignored}" if ignored is not None else ""),
        do=_advice(own, strange, labels, ignored, given),
    )


def _advice(own: list[int], strange: list[int], labels: int, ignored: int | None, given: Numbering | None) -> str:
    """How labels could be meant."""
    pairs = {} if given is None else dict(given.pairs)
    without = [*([] if ignored is None else [ignored]), *(old for old, new in pairs.items() if new is None), *strange]
    leave_out = f"ignore_index={without if len(without) > 1 else without[0]}"
    leave_out += f" (--ignore-index {' '.join(map(str, without))})"
    absent = [label for label in range(labels) if label not in own]
    if strange == [labels] and 0 not in own and not pairs:
        return f"If labels are counted from 1, say so with {_typed({k: k - 1 for k in range(1, labels + 1)})}."
    if not absent:
        return f"No class is missing: if {_these(strange)} voxels without a label, say so with {leave_out}."
    if len(strange) <= len(absent) and labels == 2 and absent[-1] == 1:
        return f"If {strange[0]} is class 1, say so with {_typed({**pairs, strange[0]: 1})}."
    void = f" If {_these(strange)} voxels without a label: {leave_out}."
    if len(strange) == len(absent) and 0 in own:
        found = dict(zip(strange, absent, strict=True))
        told = " and ".join(f"{old} is class {new}" for old, new in list(found.items())[:SHOWN])
        like_void = all(label in VOID or label < 0 for label in strange)
        return f"If {told}, say so with {_typed({**pairs, **found})}.{void if like_void else ''}"
    return (
        "Labels are the numbers of the channels, from 0; read another as one with label_map={OLD: CLASS}"
        f" (--label-map OLD:CLASS ...), such as {strange[0]}:{absent[-1]}.{void}"
    )


def _these(strange: Sequence[int]) -> str:
    marks = "marks" if len(strange) == 1 else "mark"
    return f"{', '.join(map(str, strange[:SHOWN]))}{', ...' if len(strange) > SHOWN else ''} {marks}"


def _typed(pairs: Numbers) -> str:
    """A label map as Python and the command line take it."""
    words = " ".join(f"{old}:{LEFT_OUT if new is None else new}" for old, new in pairs.items())
    return f"label_map={dict(pairs)} (--label-map {words})"
