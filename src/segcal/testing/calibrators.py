"""Laws of calibrators: what is delivered, to whom, in which shape, and that it survives a file.

The subject is a fitted or hand-made `Calibrator` of any head. Costs: about two seconds. The label that must be kept is
the one NumPy's arg max finds in the scores as they were given, in their own type; for regions, the side of 0.5 (of 0
for logits). Scores are tried in every kind that the calibrator takes, in float32 and float64.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.head import Head
from segcal.data.rows import Prepared
from segcal.data.scores import Kind
from segcal.data.surroundings import Contexts
from segcal.errors import ScoreError, ShapeError
from segcal.methods.calibrator import Calibrator
from segcal.methods.files import load
from segcal.testing.examples import field_of, with_fields
from segcal.testing.law import Law, check_all, forall, law, require
from segcal.testing.strategies import REGIMES, scores

Array = NDArray[Any]


def kinds_of(calibrator: Calibrator) -> tuple[Kind, ...]:
    """Kinds of scores a calibrator takes: logits only, if it depends on their offset."""
    if calibrator.needs.logits:
        return ("logits",)
    return calibrator.head.kinds


def promised(values: Array, head: Head, kind: Kind) -> Array:
    """The label of scores (B, channels, *spatial):

    (B, *spatial), or for regions what is inside, (B, channels, *spatial).
    """
    if not head.sums_to_one:
        return np.asarray(values > (0.5 if kind == "probs" else 0.0))
    return np.asarray(values.argmax(1))


def _scored(
    calibrator: Calibrator,
    body: Callable[[Array, Kind], None],
    regimes: tuple[str, ...] = tuple(REGIMES),
    kinds: tuple[Kind, ...] | None = None,
) -> None:
    """Run `body` on scores (2, channels, 4, 5) of every kind."""
    for kind in kinds or kinds_of(calibrator):
        _scored_as(kind, calibrator.head, body, regimes)


def _scored_as(kind: Kind, head: Head, body: Callable[[Array, Kind], None], regimes: tuple[str, ...]) -> None:
    @forall(scores(head, kind, 40, regimes), examples=6)
    def _(flat: Array) -> None:
        body(np.ascontiguousarray(flat.reshape(head.channels, 2, 4, 5).swapaxes(0, 1)), kind)


def fields_of(calibrator: Calibrator, scores: torch.Tensor) -> dict[str, Any]:
    """What a calibrator needs beside scores."""
    return {name: torch.from_numpy(field_of(name, scores)) for name in calibrator.needs.fields}


def _applied(calibrator: Calibrator, scores: torch.Tensor, kind: Kind | None = None) -> torch.Tensor:
    out: torch.Tensor = calibrator(scores, kind=kind, **fields_of(calibrator, scores))
    return out


def _logs(calibrator: Calibrator, scores: torch.Tensor, kind: Kind) -> torch.Tensor:
    return calibrator.log_probs(scores, kind=kind, **fields_of(calibrator, scores))


def _bits(p: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(p.shape), p.detach().numpy().tobytes()


@law
def delivers_probabilities(calibrator: Calibrator) -> None:
    """What is delivered is float32 in the shape of the scores, within [0, 1], and sums to one within 1e-6 over
    classes.
    """

    def body(z: Array, kind: Kind) -> None:
        p = _applied(calibrator, torch.from_numpy(z), kind)
        require(
            p.dtype == torch.float32 and tuple(p.shape) == z.shape, f"{p.dtype} {tuple(p.shape)} for scores {z.shape}"
        )
        require(bool(((p >= 0) & (p <= 1 + 1e-6)).all()), f"values outside [0, 1], or NaN, from {kind}")
        if calibrator.head.sums_to_one:
            off = float((p.double().sum(1) - 1).abs().max())
            require(off <= 1e-6, f"probabilities from {kind} sum to one only within {off:.3g}")

    _scored(calibrator, body)


@law
def promised_label_is_delivered(calibrator: Calibrator) -> None:
    """Where the calibrator keeps the label, np.argmax of what is delivered equals np.argmax of the scores at every
    voxel, ties and saturated scores included.
    """
    if not calibrator.keeps_label:
        return

    def body(z: Array, kind: Kind) -> None:
        p = _applied(calibrator, torch.from_numpy(z), kind).numpy()
        flipped = promised(p, calibrator.head, "probs") != promised(z, calibrator.head, kind)
        require(not flipped.any(), f"{int(flipped.sum())} of {flipped.size} labels flip, from {kind} in {z.dtype}")

    _scored(calibrator, body)


@law
def promised_order_is_delivered(calibrator: Calibrator) -> None:
    """Where the ranking of classes is proven to stay, no two classes that differ in the scores are the other way round
    in what is delivered, in float32.
    """
    if calibrator.guarantees().preserves_order != "proven" or not calibrator.head.sums_to_one:
        return

    def body(z: Array, kind: Kind) -> None:
        p = _applied(calibrator, torch.from_numpy(z), kind).numpy()
        above, below = z[:, :, None] > z[:, None], p[:, :, None] < p[:, None]
        swapped = (above & below).any((1, 2))
        require(
            not swapped.any(),
            f"two classes swap in {int(swapped.sum())} of {swapped.size} voxels, from {kind} in {z.dtype}",
        )

    _scored(calibrator, body)


@law
def shape_of_the_batch_is_free(calibrator: Calibrator) -> None:
    """A table (N, C), images, volumes and single cases of a batch give the same labels, and probabilities to 1e-6;
    where neighbours count, images as volumes of one slice do.
    """

    def body(z: Array, kind: Kind) -> None:
        p = _applied(calibrator, torch.from_numpy(z), kind).numpy()
        channels = z.shape[1]
        table = np.ascontiguousarray(np.moveaxis(z, 1, -1).reshape(-1, channels))
        if calibrator.needs.case:
            single = (
                np.concatenate([_applied(calibrator, torch.from_numpy(z[k : k + 1]), kind).numpy() for k in range(2)])
                if not calibrator.needs.fields
                else p
            )
            volume = _applied(calibrator, torch.from_numpy(z[:, :, None]), kind).numpy().reshape(z.shape)
            for how, q in {"single cases": single, "volumes of one slice": volume}.items():
                require(np.abs(p - q).max() <= 1e-6, f"{how} give other probabilities")
            return
        as_table = np.moveaxis(calibrator(torch.from_numpy(table), kind=kind).numpy().reshape(2, 4, 5, channels), -1, 1)
        as_volume = calibrator(torch.from_numpy(z.reshape(2, channels, 2, 2, 5)), kind=kind).numpy().reshape(z.shape)
        one_by_one = np.concatenate([calibrator(torch.from_numpy(z[k : k + 1]), kind=kind).numpy() for k in range(2)])
        strided = calibrator(torch.from_numpy(z).transpose(2, 3), kind=kind).transpose(2, 3).numpy()
        for how, q in {
            "a table": as_table,
            "volumes": as_volume,
            "single cases": one_by_one,
            "transposed images": strided,
        }.items():
            require(np.abs(p - q).max() <= 1e-6, f"{how} give other probabilities")
            if calibrator.keeps_label:
                require(
                    np.array_equal(promised(p, calibrator.head, "probs"), promised(q, calibrator.head, "probs")),
                    f"{how} give other labels",
                )

    # of extreme scores, rounding inside a matrix product decides which class wins
    _scored(calibrator, body, ("ordinary", "faint", "saturated", "constant"), (calibrator.kind,))


@law
def an_empty_batch_gives_an_empty_result(calibrator: Calibrator) -> None:
    """No case, or cases without a voxel, give an empty result of that shape."""
    channels = calibrator.head.channels
    shapes: list[tuple[int, ...]] = [(0, channels, 4, 5), (1, channels, 3, 0, 2)]
    shapes += [] if calibrator.needs.case else [(0, channels), (2, channels, 0)]
    for shape in shapes:
        p = _applied(calibrator, torch.zeros(shape))
        require(
            tuple(p.shape) == shape and p.dtype == torch.float32,
            f"{p.dtype} {tuple(p.shape)} for an empty batch {shape}",
        )


@law
def applying_is_pure(calibrator: Calibrator) -> None:
    """Applying again, in training mode too, gives the same bits, and the scores stay as they were."""

    def body(z: Array, kind: Kind) -> None:
        given = torch.from_numpy(z)
        kept = given.clone()
        first = _bits(_applied(calibrator, given, kind))
        require(torch.equal(given, kept), "the scores were changed")
        mode = calibrator.training
        again = [_bits(_applied(calibrator.train(training), given, kind)) for training in (True, False)]
        calibrator.train(mode)
        require(again == [first, first], "applying again gave other bits")

    _scored(calibrator, body, ("ordinary", "saturated"))


@law
def a_file_gives_the_same_bits(calibrator: Calibrator) -> None:
    """Saved and loaded it gives the same bits, and remembers head, kind, method, promises, solution and fit data."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calibrator.safetensors"
        calibrator.save(path)
        loaded = load(path)
    if calibrator.segmenter is not None:
        loaded = loaded.with_segmenter(calibrator.segmenter)
    for name in ("head", "kind", "method", "keep_decision", "data"):
        require(
            getattr(loaded, name) == getattr(calibrator, name), f"{name} is {getattr(loaded, name)!r} after loading"
        )
    require(loaded.guarantees() == calibrator.guarantees(), "other promises after loading")
    told = [
        None if c.solution is None else json.dumps(c.solution.to_json(), sort_keys=True) for c in (loaded, calibrator)
    ]
    require(told[0] == told[1], "another solution after loading")

    def body(z: Array, kind: Kind) -> None:
        given = torch.from_numpy(z)
        require(
            _bits(_applied(loaded, given, kind)) == _bits(_applied(calibrator, given, kind)),
            "a loaded copy gives other bits",
        )

    _scored(calibrator, body)


@law
def copies_give_the_same_bits(calibrator: Calibrator) -> None:
    """A deep copy, a copy moved with `.to()`, and one filled from its state_dict give the same bits."""
    moved = copy.deepcopy(calibrator).to(torch.device("cpu")).double()
    filled = copy.deepcopy(calibrator)
    filled.load_state_dict({k: v.clone() for k, v in calibrator.state_dict().items()})

    def body(z: Array, kind: Kind) -> None:
        given = torch.from_numpy(z)
        expected = _bits(_applied(calibrator, given, kind))
        require(_bits(_applied(moved, given, kind)) == expected, "a moved copy gives other bits")
        require(_bits(_applied(filled, given, kind)) == expected, "a copy filled from state_dict gives other bits")

    _scored(calibrator, body, ("ordinary", "nearly tied"))


@law
def log_probs_agree_with_what_is_delivered(calibrator: Calibrator) -> None:
    """`log_probs` are the logarithms of what is delivered, to 1e-6 in probability, in float64 and the shape of the
    scores.
    """

    def body(z: Array, kind: Kind) -> None:
        given = torch.from_numpy(z)
        x, p = _logs(calibrator, given, kind), _applied(calibrator, given, kind)
        require(x.dtype == torch.float64 and x.shape == p.shape, f"{x.dtype} {tuple(x.shape)}")
        off = float((x.exp() - p).abs().max())
        kept = calibrator.head.can_keep_decision and calibrator.keeps_label
        tolerance = 1e-6 if not kept else float((x.exp() - 0.5).abs().max()) + 1e-6
        require(off <= tolerance, f"log_probs and the delivered probabilities differ by {off:.3g}")

    _scored(calibrator, body)


@law
def a_shift_of_logits_moves_nothing_if_promised(calibrator: Calibrator) -> None:
    """Where translation invariance is proven, a constant added to all logits of a voxel moves no probability by more
    than 1e-6.
    """
    if calibrator.guarantees().translation_invariant != "proven" or not calibrator.head.has_free_energy:
        return

    def body(z: Array, kind: Kind) -> None:
        given = torch.from_numpy(z).double()
        shift = torch.linspace(-1e3, 1e3, 40, dtype=torch.float64).reshape(2, 1, 4, 5)
        off = float((_applied(calibrator, given + shift, kind) - _applied(calibrator, given, kind)).abs().max())
        require(off <= 1e-6, f"a shift of the logits moves a probability by {off:.3g}")

    _scored(calibrator, body, ("ordinary", "faint"), ("logits",))


@law
def what_is_measured_is_what_is_delivered(calibrator: Calibrator) -> None:
    """Rows mapped by `through`, which metrics see, hold the delivered decision, and the delivered probabilities to
    1e-6.
    """
    head = calibrator.head

    def body(z: Array, kind: Kind) -> None:
        cohort = with_fields(cohort_from_arrays(z[:1], kind=kind, head=head))
        with Scratch(1 << 20) as scratch, cohort.open(0, scratch) as reader:
            block = reader.block(0, cohort[0].voxels)
            throughs = [calibrator.through(part) for part in range(len(head.parts))]
            wanted = {*calibrator.contexts, *(c for t in throughs for c in t.contexts)}
            contexts = Contexts(reader, scratch, wanted).of(0, block.voxels)
        flat = block.scores
        decision = head.decide(flat, kind)
        energy = head.free_energy(flat, kind)
        prepared = Prepared(
            0,
            0,
            head.canonical(flat, kind, calibrator.resolution),
            torch.zeros_like(decision),
            decision,
            energy,
            contexts=contexts,
        )
        p = calibrator.deliver(flat, kind, contexts)
        for part in range(len(head.parts)):
            mapped = throughs[part](prepared.part(head, part))
            inside = p if head.sums_to_one else p[part]
            seen = mapped.log_probs.exp() if head.sums_to_one else mapped.log_probs.exp()[1]
            require(float((seen - inside).abs().max()) <= 1e-6, "metrics see other probabilities than are delivered")
            label = p.argmax(0) if head.sums_to_one else (p[part] > 0.5).long()
            if calibrator.keeps_label:
                require(torch.equal(mapped.decision, label), "metrics see another decision than is delivered")

    _scored(calibrator, body)


@law
def bad_scores_are_refused(calibrator: Calibrator) -> None:
    """NaN is a ScoreError, and another number of channels a ShapeError."""
    channels = calibrator.head.channels
    for bad, error in (
        (torch.full((1, channels, 3, 3), torch.nan), ScoreError),
        (torch.full((1, channels + 1, 3, 3), 0.5), ShapeError),
    ):
        try:
            _applied(calibrator, bad)
        except error:
            continue
        require(False, f"scores {tuple(bad.shape)} of {bad.flatten()[0].item()} were taken")


@law
def a_trace_gives_the_same_numbers(calibrator: Calibrator) -> None:
    """torch.export follows `log_probs`, and what it makes gives the same numbers to 1e-12; what needs places, which are
    found in whole label maps, cannot be exported.
    """
    if calibrator.needs.places:
        return
    shape = (2, calibrator.head.channels, 3, 4)
    made = _LogProbs(calibrator, fields_of(calibrator, torch.zeros(shape)))
    grid = torch.linspace(-3, 3, int(np.prod(shape))).reshape(shape)
    z, other = grid.sin(), (2 * grid).cos()
    exported = torch.export.export(made, (z,), strict=False).module()
    for given in (z, other):
        off = float((exported(given) - made(given)).abs().max())
        require(off <= 1e-12, f"the exported calibrator differs by {off:.3g}")


class _LogProbs(torch.nn.Module):
    """What gets exported: logits to calibrated log-probabilities, without the look at the values."""

    def __init__(self, calibrator: Calibrator, fields: dict[str, Any]) -> None:
        super().__init__()
        self.calibrator = calibrator
        self.fields = fields

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.calibrator.log_probs(z, kind="logits", check=False, **self.fields)


CALIBRATOR_LAWS: tuple[Law[Calibrator], ...] = (
    delivers_probabilities,
    promised_label_is_delivered,
    promised_order_is_delivered,
    shape_of_the_batch_is_free,
    an_empty_batch_gives_an_empty_result,
    applying_is_pure,
    a_file_gives_the_same_bits,
    copies_give_the_same_bits,
    log_probs_agree_with_what_is_delivered,
    a_shift_of_logits_moves_nothing_if_promised,
    what_is_measured_is_what_is_delivered,
    bad_scores_are_refused,
    a_trace_gives_the_same_numbers,
)
"""What `check_calibrator` checks."""


def check_calibrator(calibrator: Calibrator) -> None:
    """Check all laws of calibrators. Raises BrokenLawError, or an ExceptionGroup of several."""
    check_all(CALIBRATOR_LAWS, calibrator)
