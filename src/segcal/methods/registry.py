"""Methods by the names that `--method` takes, and kinds of maps by the names that files have: those of segcal, those
registered by a script, those of installed packages.

    @segcal.methods.register                             in a script or a notebook: known from there on
    class BiasCorrected(Method): ...

    [project.entry-points."segcal.methods"]              in a package's pyproject.toml: known wherever it is installed,
    bcts = "my_package.bias_corrected:BiasCorrected"     the command line included

The table of segcal's own is `segcal.methods.BUILT_IN`. A package is imported when a name is asked for that is neither
segcal's nor registered, or all names are. A class that cannot be one of the methods, a name that is taken, a package
that cannot be imported: UsageError, which names it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from segcal.data.files.reading import shown
from segcal.errors import UsageError
from segcal.methods import BUILT_IN
from segcal.methods.guarantees import Guarantees
from segcal.methods.maps import KINDS, PartMap
from segcal.methods.method import AnyMethod
from segcal.methods.names import REGISTERED, packaged

RESERVED = ("auto", "uncalibrated")
"""Names that say something else where a method is named."""

FORM = re.compile(r"[a-z][a-z0-9-]*")
"""What a name looks like."""

PLAIN: dict[type, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
"""Types of options that can be told from a value alone, and what each is called."""

M = TypeVar("M", bound=type[AnyMethod])


@dataclass(frozen=True, eq=False)
class Named:
    """A method by a name that `--method` takes: its class, and the options that the name stands for."""

    name: str
    kind: type[AnyMethod]
    settled: Mapping[str, Any]

    def __call__(self, *given: Any, **options: Any) -> AnyMethod:
        """The method with these options. TypeError for one it does not have, UsageError for a value that is not of the
        plain type (`float`, `int`, `bool`, `str`) that the class declares.
        """
        for option, value in options.items():
            declared = self.options[option].type if option in self.options else None
            wanted = next((t for t in PLAIN if declared in (t, t.__name__)), None)
            if wanted is not None and not _is(value, wanted):
                raise UsageError(option, found=shown(value), expected=PLAIN[wanted], do="Leave it out for the default.")
        return self.kind(*given, **{**self.settled, **options})

    @property
    def options(self) -> dict[str, Field[Any]]:
        """Its options by name."""
        return {f.name: f for f in fields(self.kind) if f.init}  # type: ignore[arg-type]  # `register` checks it

    @property
    def printed(self) -> str:
        """What the papers' tables call it; its own name where they do not."""
        return next((printed for printed, name in self.kind.papers.items() if name == self.name), self.name)

    @cached_property
    def guarantees(self) -> Guarantees | None:
        """What its maps promise, read off one drawn at random; None: not known before a fit."""
        made = self().drawn(4)
        return None if made is None else made.guarantees()


def register(kind: M) -> M:
    """Make a method known by its names; a decorator. The same class again, as in a notebook, takes the former's place.

    UsageError for what is no frozen dataclass of options that all have defaults, or a name that is taken.
    """
    _check(kind)
    for name, settled in kind.variants().items():
        _check_name(kind, name)
        REGISTERED[name] = Named(name, kind, dict(settled))
    return kind


def methods() -> dict[str, Named]:
    """Every method by name: segcal's own first, in the order of their table."""
    for entry in packaged():
        if entry.name not in REGISTERED:
            _load(entry)
    return {name: _built_in(name) for name in BUILT_IN} | REGISTERED


def find(name: str) -> Named | None:
    """The method of a name; None for a name that nothing has."""
    if name in BUILT_IN:
        return _built_in(name)
    for entry in packaged():
        if entry.name == name and name not in REGISTERED:
            _load(entry)
    return REGISTERED.get(name)


def kind_of_map(type_name: str) -> type[PartMap] | None:
    """The kind of map that a file names so; None where no method known here has it."""
    if type_name not in KINDS:
        methods()
    return KINDS.get(type_name)


def _built_in(name: str) -> Named:
    known = BUILT_IN[name]
    kind: type[AnyMethod] = getattr(importlib.import_module(known.module), known.kind)
    return Named(name, kind, kind.variants()[name])


def _load(entry: EntryPoint) -> None:
    """Register what a package names. UsageError where it cannot be imported, or names something else."""
    package = "a package" if entry.dist is None else f"the package {entry.dist.name}"
    where = f"--method {entry.name}, of {package}"
    try:
        kind = entry.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            where, found=str(error), expected=f"a method at {entry.value}", do="Mend the package, or uninstall it."
        ) from error
    register(kind)
    if entry.name not in REGISTERED:
        raise UsageError(
            where,
            found=f"a method called {', '.join(kind.variants())}",
            expected="a method of the name that the package gives it",
            do="Give both the same name.",
        )


def _check(kind: type[AnyMethod]) -> None:
    if not (isinstance(kind, type) and issubclass(kind, AnyMethod)):
        found, expected = repr(kind), "a subclass of segcal.methods.Method or segcal.methods.Trained"
    elif not (is_dataclass(kind) and kind.__dataclass_params__.frozen):
        found, expected = "a class that is no frozen dataclass", "its options as a frozen dataclass"
    elif missing := sorted(kind.__abstractmethods__):
        found, expected = f"nothing for {', '.join(missing)}", "a method with all that is abstract written"
    else:
        return
    raise UsageError(
        f"register({getattr(kind, '__qualname__', '')})",
        found=found,
        expected=expected,
        do="See docs/how-to/extend.md for an example.",
    )


def _is(value: object, wanted: type) -> bool:
    if isinstance(value, bool):  # Python takes it for a whole number
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)


def _check_name(kind: type[AnyMethod], name: str) -> None:
    there = REGISTERED.get(name)
    again = there is not None and (there.kind.__module__, there.kind.__qualname__) == (
        kind.__module__,
        kind.__qualname__,
    )
    if FORM.fullmatch(name) and not (name in BUILT_IN or name in RESERVED or (there is not None and not again)):
        return
    raise UsageError(
        f"register({kind.__qualname__})",
        found=f"the name {name!r}",
        expected="letters, digits and dashes, and no name that is taken",
        do="Choose another name.",
    )
