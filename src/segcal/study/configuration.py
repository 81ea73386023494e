"""The configuration of a study: one YAML file, read into data whose every mistake is found before any work begins.

Paths are relative to the file; `$NAME` stands for an environment variable, and a pattern such as `predictions/member*`
for the folders it matches, in order. Unknown keys and names are refused with the nearest known one. The text under a
field is its help: `segcal study --example` prints it (`segcal.study.example`). Raises MissingError (no file),
UnreadableError (no YAML), UsageError (everything else), each naming the entry.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from segcal.data.files.reading import DEPTH, content, listed, shown
from segcal.data.splits import natural
from segcal.errors import MissingError, UnreadableError, UsageError, extra
from segcal.study.pipelines import PAPER, Pipeline, family, pipeline, unknown

with extra("study"):
    import yaml
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$")
"""A number such as 1e-6, which is one to everybody, but not to PyYAML."""

LIMIT = 1 << 18
"""Largest configuration, in bytes."""

ENTRIES = 10_000
"""Most entries of a configuration."""

CLEAN = "test"
"""The cohort a study is about: the test cases of each repeat."""


Cases = Annotated[int, Field(gt=0, le=10**9)]
Index = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class Section(BaseModel):
    """Part of a configuration: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Predictions with labels, as the command line takes them."""

    results: tuple[str, ...]
    """Folders of predictions: one, or the members of an ensemble."""
    labels: str | None = None
    """Folder of label maps, one a case and named as it. An nnU-Net results folder brings its own."""
    kind: Literal["logits", "log_probs", "probs", "scores"] | None = None
    """What the scores are, where the files do not say."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where no dataset.json names them."""
    background: Index | Literal["none"] | None = None
    """Index of the class left out of Dice and IoU, or none. Default: as dataset.json says."""
    ignore_index: Index | tuple[Index, ...] | None = None
    """Label, or labels, that mark voxels never scored."""
    label_map: dict[Index, Index | Literal["ignore"]] = {}
    """What labels are read as, where they do not number the classes as the channels do."""
    mask: str | None = None
    """Folder of masks; only voxels where the mask is not 0 are scored."""
    images: str | None = None
    """Folder of the images, for pictures and for methods that look at them."""
    copies: str | None = None
    """Folder that segcal copies wrote, for methods that look at it."""
    cases: tuple[str, ...] = ()
    """Only the cases with these names; shell patterns are allowed."""
    exclude: tuple[str, ...] = ()
    """Not the cases with these names, or patterns."""
    zyx: bool = False
    """Arrays have their axes as SimpleITK gives them, (z, y, x)."""
    channel_axis: int = Field(0, ge=-16, lt=16)
    """The class axis of arrays."""
    networks: int | None = None
    """How many networks each folder's probabilities average, where nnU-Net does not record it (2.2 and later)."""
    geometry: Literal["strict", "nnunet", "ignore"] = "strict"
    """What to do where label map and prediction lie at different places: refuse the case, go on where the voxels are as
    large, or not compare."""
    go_on: bool = False
    """Of a further cohort: score it although its scores were made in another way than those of data."""
    groups: str | None = None
    """Of a further cohort: cases that belong together, as in split. Cases named as clean ones have their groups."""

    @field_validator("results", "classes", "cases", "exclude", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def as_beside(self, clean: Data) -> Data:
        """With what the clean data say of their files where this says nothing."""
        inherited = ("kind", "classes", "background", "ignore_index", "label_map", "zyx", "channel_axis", "geometry")
        return self.model_copy(
            update={name: getattr(clean, name) for name in inherited if name not in self.model_fields_set}
        )


class Split(Section):
    """How many cases go where, in each repeat (K26 Table 1)."""

    calibration: Cases
    """Cases the calibrators are fitted on."""
    validation: Cases
    """Cases that strengths, stopping and trials are chosen by."""
    test: Cases | None = None
    """Cases the results are about. Default: all that are left."""
    groups: str | None = None
    """Cases that belong together and are never split: a table (.csv or .tsv with the columns case and group),
    consecutive:20, consecutive:20:PATTERN, source, or a pattern."""
    gap: int = Field(0, ge=0, le=10**9)
    """With consecutive frames: frames left out between neighbouring runs."""


class RecipeSection(Section):
    """The papers' own recipe beside the exact solvers, as further pipelines called `NAME recipe`."""

    trials: int = Field(20, gt=0, le=10_000)
    epochs: int = Field(200, gt=0, le=100_000)
    sample: bool = False
    """Train on an even sample of the voxels instead of all: much quicker on large cohorts."""
    only: tuple[str, ...] = ()
    """Pipelines to repeat; default: every one the recipe can fit."""


class Sensitivity(Section):
    """Calibration set sizes (K26 Appendix F): the test split stays, validation takes what is left."""

    sizes: Annotated[tuple[Cases, ...], Field(max_length=100)] = ()
    pipelines: tuple[str, ...] = ("TS(zbar)", "MS(zbar)", "MSc(zbar)", "LTS(zbar)", "CDC(zbar)")


class Configuration(Section):
    """A whole study."""

    name: str
    """What tables call the data set."""
    modality: str = ""
    """What Table 1 says of the images, such as 3D CT. Default: as dataset.json says, where there is one."""
    training_cases: int | None = Field(None, gt=0, le=10**9)
    """How many cases the networks were trained on, for Table 1. Default: as dataset.json says."""
    data: Data
    split: Split
    repeats: int = Field(3, gt=0, le=1_000)
    seed: int = Field(0, ge=0, lt=2**32)
    pipelines: tuple[str, ...] = PAPER
    methods: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    """Options of methods, such as {lts: {epochs: 40}, dc: {penalty: odir}}."""
    cohorts: Mapping[str, Data] = Field(default_factory=dict)
    """Further cohorts, scored without refit: a case named as a clean one only where that is a test case, any
    other case in every repeat."""
    sensitivity: Sensitivity = Sensitivity()
    recipe: RecipeSection | None = None
    bins: tuple[Annotated[int, Field(gt=0, le=10_000)], ...] = Field((20, 30, 40), max_length=100)
    """Bin counts beside 15 and 50."""
    bands: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field((3, 7, 15), max_length=100)
    """Edges between the bands of BA-ECE: distances to a label boundary."""
    distance: Literal["voxels", "mm"] = "voxels"
    """Unit of these distances; millimetres need files that know their spacing."""
    objects: bool = False
    """Also the ECE at the boundary and in the interior of objects, within their bounding boxes, over 10 bins (W23 Fig.
    5)."""
    replicates: int = Field(2000, gt=0, le=1_000_000)
    """Bootstrap replicates."""
    samples: int = Field(3, ge=0, le=1_000)
    """Test cases kept as pictures."""

    @field_validator("cohorts")
    @classmethod
    def _names_are_plain(cls, value: Mapping[str, Data]) -> Mapping[str, Data]:
        for name in value:
            if name == CLEAN or not re.fullmatch(r"\w[\w .+-]*", name):
                raise ValueError(
                    f"another name than {name!r}: letters, digits, spaces, '.', '+', '-' and '_', and not {CLEAN!r},"
                    " which is that of the clean test cases"
                )
        return value

    @field_validator("pipelines", "bins", "bands", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int | float) else value

    def chosen(self) -> tuple[Pipeline, ...]:
        """The pipelines, those of the recipe last.

        UsageError for a name, a method or an option nobody knows, or a pipeline named twice.
        """
        used = {p.method for p in self.sized()}
        twice = [p for p in self.pipelines if self.pipelines.count(p) > 1]
        if twice or not self.pipelines:
            raise UsageError(
                "pipelines",
                found=f"{twice[0]!r} twice" if twice else "none",
                expected="each pipeline once",
                do="Leave it out for the paper's nineteen.",
            )
        known = [pipeline(name, self.methods) for name in self.pipelines]
        for method in self.methods:
            names = {p.method for p in known if p.method} | {m for m in used if m}
            if method not in names | {family(m) for m in names}:
                raise unknown("methods", method, names, "a method that one of the pipelines uses")
        for p in known:
            p.make()
        return (*known, *self._by_recipe(known))

    def sized(self) -> tuple[Pipeline, ...]:
        """The pipelines whose calibration set varies; none without sizes.

        UsageError for one that nothing is fitted for.
        """
        found = (
            tuple(pipeline(name, self.methods) for name in self.sensitivity.pipelines) if self.sensitivity.sizes else ()
        )
        for p in found:
            if p.method is None:
                raise UsageError(
                    "sensitivity: pipelines",
                    found=repr(p.name),
                    expected="pipelines that are fitted",
                    do="Leave it out: no calibration set changes it.",
                )
        return found

    def resolved(self) -> Configuration:
        """With what the clean data say of their files written out for every further cohort."""
        return self.model_copy(
            update={"cohorts": {name: data.as_beside(self.data) for name, data in self.cohorts.items()}}
        )

    @classmethod
    def recorded(cls, described: Any) -> Configuration:
        """The configuration that a study's record holds. Records of earlier versions name every entry of a further
        cohort, and null where it said nothing. ValidationError for something else.
        """
        if isinstance(described, Mapping) and isinstance(beside := described.get("cohorts"), Mapping):
            said = {
                name: {k: v for k, v in data.items() if v not in (None, [])} if isinstance(data, Mapping) else data
                for name, data in beside.items()
            }
            described = {**described, "cohorts": said}
        return cls.model_validate(described).resolved()

    def _by_recipe(self, known: list[Pipeline]) -> list[Pipeline]:
        if self.recipe is None:
            return []
        from segcal.methods.registry import find
        from segcal.study.recipe.recipe import Recipe

        able = {p.name: p for p in known if p.method and (n := find(p.method)) and "solver" in n.options}
        for name in self.recipe.only:
            if name not in able:
                raise unknown("recipe: only", name, able, "a pipeline above that the papers' recipe can fit")
        wanted = self.recipe.only or tuple(able)
        solver = Recipe(trials=self.recipe.trials, epochs=self.recipe.epochs, seed=self.seed, sample=self.recipe.sample)
        return [Pipeline(f"{name} recipe", able[name].view, able[name].method, {"solver": solver}) for name in wanted]


class _Once(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML publishes no types
    """YAML in which a key stands once in its section (PyYAML alone would keep the last), of at most `ENTRIES` entries
    with its aliases written out, before any of them is made.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[int, int] = {}
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        self._depth += 1
        node = super().compose_node(parent, index) if self._depth <= DEPTH else None
        self._depth -= 1
        if node is None:
            raise yaml.composer.ComposerError(None, None, f"nested more than {DEPTH} levels deep")
        if id(node) not in self._sizes:
            value = node.value
            inside = [] if isinstance(value, str) else [n for v in value for n in (v if isinstance(v, tuple) else (v,))]
            if any(id(n) not in self._sizes for n in inside):
                raise yaml.composer.ComposerError(None, None, "an entry that stands in itself", node.start_mark)
            self._sizes[id(node)] = 1 + sum(self._sizes[id(n)] for n in inside)
        if max(len(self._sizes), self._sizes[id(node)]) > ENTRIES:
            raise yaml.composer.ComposerError(None, None, f"more than {ENTRIES} entries", node.start_mark)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        keys = Counter(
            k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode) and k.tag != "tag:yaml.org,2002:merge"
        )
        twice = [k for k, count in keys.items() if count > 1]
        if twice:
            found = f"the entry {shown(twice[0])} stands twice"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark)
        super().flatten_mapping(node)


_Once.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def read(path: str | os.PathLike[str]) -> Configuration:
    """The configuration in a YAML file, paths resolved against its folder."""
    where = Path(path)
    if not listed(where):
        raise MissingError(
            str(where),
            found="no such file",
            expected="a configuration",
            do="Print one to begin with: segcal study --example.",
        )
    data = content(where, LIMIT)
    try:
        loaded = yaml.load(data.decode("utf-8"), Loader=_Once)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML lets through what int, float, bool and datetime say of a value that has their tag
        raise UnreadableError(
            str(where),
            found=f"something that is no YAML ({' '.join(str(error).split())[:200]})",
            expected="a configuration",
            do="See segcal study --example.",
        ) from error
    if not isinstance(loaded, Mapping):
        raise UnreadableError(
            str(where),
            found=f"a {type(loaded).__name__}",
            expected="entries such as name: and data:",
            do="See segcal study --example.",
        )
    try:
        found = Configuration.model_validate(loaded)
    except ValidationError as error:
        raise _said(where, error) from error
    return found.model_copy(
        update={
            "data": _placed(found.data, where.parent, "data"),
            "cohorts": {name: _placed(data, where.parent, f"cohorts: {name}") for name, data in found.cohorts.items()},
            "split": found.split.model_copy(update={"groups": _table(found.split.groups, where.parent)}),
        }
    )


def _said(where: Path, error: ValidationError) -> UsageError:
    """The first thing that is wrong, a key that is unknown before one that is missing: it may be the same, misspelt."""
    wrong = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    place = [str(p)[:80] for p in wrong["loc"]]
    at = f"{where}: {': '.join(place)}"
    if wrong["type"] == "extra_forbidden":
        return unknown(
            f"{where}: {': '.join(place[:-1]) or 'the top level'}", place[-1], _known_keys(place[:-1]), "a known entry"
        )
    if wrong["type"] == "missing":
        return UsageError(
            at, found="nothing", expected="a value", do="Every study needs it; see segcal study --example."
        )
    return UsageError(
        at, found=shown(wrong["input"], 80), expected=wrong["msg"].lower()[:200], do="See segcal study --example."
    )


def _known_keys(place: list[str]) -> list[str]:
    """Entries of the section at a place."""
    sections: dict[str, type[Section]] = {
        "data": Data,
        "split": Split,
        "sensitivity": Sensitivity,
        "recipe": RecipeSection,
        "cohorts": Data,
    }
    return list(sections.get(place[0] if place else "", Configuration).model_fields)


def _placed(data: Data, folder: Path, where: str) -> Data:
    """Paths made absolute, patterns made lists."""
    results = tuple(str(p) for given in data.results for p in _matches(_resolved(given, folder, where), where))
    named = {
        key: None if (value := getattr(data, key)) is None else str(_resolved(value, folder, where))
        for key in ("labels", "mask", "images", "copies")
    }
    return data.model_copy(update={"results": results, **named, "groups": _table(data.groups, folder)})


def _table(groups: str | None, folder: Path) -> str | None:
    """A table of groups is a path; every other word stays."""
    if groups is None or not groups.lower().endswith((".csv", ".tsv")):
        return groups
    return str(_resolved(groups, folder, "split: groups"))


def _resolved(text: str, folder: Path, where: str) -> Path:
    if "\0" in text:
        raise UsageError(where, found=shown(text), expected="a path", do="Take the character of code 0 out.")
    expanded = os.path.expandvars(os.path.expanduser(text))
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset is not None:
        raise UsageError(
            where,
            found=f"{text!r}, and {unset.group(1)} is not set",
            expected="environment variables that are set",
            do=f"export {unset.group(1)}=...",
        )
    return Path(os.path.abspath(folder / expanded))


def _matches(path: Path, where: str) -> list[Path]:
    if not any(mark in str(path) for mark in "*?["):
        return [path]
    found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))), key=lambda p: natural(str(p)))
    if not found:
        raise MissingError(
            where, found=f"nothing that matches {path}", expected="folders of predictions", do="Check the pattern."
        )
    return found
