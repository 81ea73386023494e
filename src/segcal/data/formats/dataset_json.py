"""The head that nnU-Net's dataset.json describes: classes or regions, background and ignored label.

`labels` maps names to integers (softmax) or to lists of integers (regions, written over each other in
`regions_class_order`); 'background' is left out of Dice and IoU; 'ignore' is never scored. Promises: labels must be
numbered 0, 1, 2, ... without a gap, the ignored one last, as nnU-Net demands; anything else raises LabelError or
UnreadableError naming the file. As in nnU-Net, a list with one label makes no region by itself, and an integer may be
written as a text ("1") or with a point (1.0).

Beside plain scores a dataset.json may be somebody else's (`named_head`): the Decathlon's, whose `labels` map numbers to
names, names the classes where there are as many; any other style is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segcal.data.case import Case
from segcal.data.files.reading import json_object, shown
from segcal.data.head import Head, Regions, Softmax
from segcal.errors import LabelError, UnreadableError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises MissingError or UnreadableError."""
    return json_object(path, "Copy this file from the training folder again.")


def head_of(described: Mapping[str, Any], where: Path) -> Head:
    """The head that the contents of the dataset.json at `where` describe."""
    labels = _numbers(described.get("labels"))
    if labels is None:
        raise UnreadableError(
            str(where),
            found=f"labels {shown(described.get('labels'))}",
            expected='names with integers, such as {"background": 0, "tumour": 1}, or lists of integers for regions',
            do=(
                "This is the format of nnU-Net version 2; convert older files with"
                " `nnUNetv2_convert_old_nnUNet_dataset`."
            ),
        )
    ignore = labels.get("ignore")
    if isinstance(ignore, list):
        raise LabelError(
            str(where),
            found=f"ignore label {shown(ignore)}",
            expected="one integer",
            do="Correct `labels` in dataset.json.",
        )
    named = {str(name): value for name, value in labels.items() if name != "ignore"}
    used = sorted({n for value in named.values() for n in (value if isinstance(value, list) else [value])})
    if used == [1] and len(named) == 1 and ignore in (None, 2):  # one sigmoid, whose outside has no name
        return Regions(tuple(named), ((1,),), (1,), ignore)
    if used != list(range(len(used))) or (ignore is not None and ignore != len(used)):
        raise LabelError(
            str(where),
            found=f"labels {shown(used)}" + (f" and ignore label {shown(ignore)}" if ignore is not None else ""),
            expected="0, 1, 2, ... without a gap, the ignore label last",
            do="Correct `labels` in dataset.json; nnU-Net does not train on other numberings.",
        )
    if any(isinstance(v, list) and len(v) > 1 for v in named.values()):
        return _regions(named, described.get("regions_class_order"), ignore, where)
    single = {name: value[0] if isinstance(value, list) else value for name, value in named.items()}
    if len(single) != len(used):
        raise LabelError(
            str(where),
            found="two names for one label",
            expected="one name a label",
            do="Correct `labels` in dataset.json.",
        )
    ordered = sorted(single, key=lambda name: single[name])
    if len(ordered) < 2:
        raise LabelError(str(where), found="one class", expected="at least two", do="Correct `labels` in dataset.json.")
    return Softmax(tuple(ordered), single.get("background"), ignore)


def _regions(named: Mapping[str, Any], order: Any, ignore: int | None, where: Path) -> Regions:
    members = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in named.items()}
    members = {name: labels for name, labels in members.items() if set(labels) != {0}}
    numbers = [_number(label) for label in order] if isinstance(order, list) else []
    written = tuple(label for label in numbers if label is not None)
    if len(written) != len(members) or len(numbers) != len(members):
        raise LabelError(
            str(where),
            found=f"regions_class_order {shown(order)}",
            expected=f"{len(members)} labels, one a region: {shown(list(members))}",
            do="Add `regions_class_order` to dataset.json as it was in training.",
        )
    return Regions(tuple(members), tuple(members.values()), written, ignore)


def named_head(described: object, where: Path, channels: int) -> Head | None:
    """The head that a dataset.json beside plain scores of `channels` classes describes; None for one of another style,
    or in the Decathlon's for another number of classes.
    """
    labels = described.get("labels") if isinstance(described, dict) else None
    if isinstance(described, dict) and _numbers(labels) is not None:
        return head_of(described, where)
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        return None
    names = {number: name for key, name in labels.items() if (number := _number(key)) is not None}
    classes = max(channels, 2)  # one sigmoid is of two classes
    if len(labels) != classes or sorted(names) != list(range(classes)) or len(set(names.values())) != classes:
        return None
    background = next((k for k, name in names.items() if name.casefold() == "background"), None)
    return Softmax(tuple(names[k] for k in range(classes)), background)


def _numbers(labels: object) -> dict[str, int | list[int]] | None:
    """The labels of each name as integers; None where they are none."""
    if not isinstance(labels, dict) or not labels:
        return None
    out: dict[str, int | list[int]] = {}
    for name, value in labels.items():
        several = [_number(v) for v in value] if isinstance(value, list) else [_number(value)]
        numbers = [n for n in several if n is not None]
        if not numbers or len(numbers) != len(several):
            return None
        out[str(name)] = numbers if isinstance(value, list) else numbers[0]
    return out


def _number(value: object) -> int | None:
    """A label, as nnU-Net takes it (it calls `int`); None for what is none."""
    if isinstance(value, str):
        return int(value) if value.strip().isdecimal() and len(value) < 10 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value >= 0 and value == value // 1 else None


SETTINGS = {"dataset.json": "dataset", "plans.json": "plans", "predict_from_raw_data_args.json": "arguments"}
"""What describes a folder, and the role in `files` of a case that says where it is; without one, it is in the case's
folder.
"""


def setting(case: Case, name: str) -> Path:
    """Where the settings file `name` of a case lies; it may be absent."""
    return case.files.get(SETTINGS[name], case.files["folder"] / name)


def turns_to_canonical_axes(case: Case) -> bool:
    """Whether the reader named in plans.json turned the image of a case to canonical axes.

    No plans.json: it did not. UnreadableError for one that is no JSON object.
    """
    path = setting(case, "plans.json")
    if not path.is_file():
        return False
    reader = json_object(path, "Copy it again from the folder of the trained model.").get("image_reader_writer")
    return isinstance(reader, str) and reader.endswith("WithReorient")
