"""Finders: how the predictions were made, delivered and calibrated so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segcal.data.cohort import Cohort
from segcal.tasks.check.finding import Finding, count, percent


def networks(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """How many networks each probability averages."""
    # what validation of all folds is for stands below
    networks = None if cohort.provenance.of_all_folds else cohort.provenance.networks
    if networks == 1 and cohort.members == 1 and any("folder" in c.files for c in cohort):
        text = (
            "each probability comes from a single network, as in validation of one fold; nnU-Net's test predictions"
            " average five, which are less overconfident"
        )
        do = (
            "A calibrator fitted here is for predictions of one fold (nnUNetv2_predict -f 0); for the mean of five, fit"
            " on the validation of all folds, or on labelled cases predicted by all of them."
        )
        yield Finding("warning", "networks", text, do)
    elif networks is not None:
        yield Finding(
            "ok",
            "networks",
            f"each probability averages {count(networks, 'network')}; a calibrator fitted here is bound to that",
        )
    yield from unrecorded(cohort, facts)


def unrecorded(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Predictions of nnU-Net without the number of networks, or of which that number says too little; `fit` says it
    too.
    """
    made = cohort.provenance
    if made.of_all_folds:
        yield Finding(
            "note",
            "networks",
            f"validation predictions of {made.validated} folds, a single network each: a calibrator fitted here is for"
            " the mean of these networks, and for each alone",
            f"Name NEW with --networks {made.validated} for predictions of all folds, with 1 for those of one.",
        )
    if made.networks is None and made.origin == "prediction":
        yield Finding(
            "note",
            "networks",
            "how many networks each probability averages is not recorded (nnU-Net no longer writes it since 2.2), so a"
            " calibrator fitted here cannot be told from one for another number",
            "Add --networks 5 for the mean of five folds, --networks 1 for one fold.",
        )


def delivered(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the delivered label maps are those of the scores."""
    found = facts["delivered"]
    if found["voxels"]:
        total = sum(facts["voxels"].values())
        share = f"in {found['differ']} of {found['cases']} cases, {percent(found['voxels'], total)} of the voxels"
        text = f"the delivered label map differs from the arg max of its probabilities {share}: it was post-processed"
        yield Finding(
            "note",
            "label maps",
            text,
            "`segcal apply` copies the delivered map as it is; its map 'error' is about the delivered label.",
        )
    elif found["cases"]:
        yield Finding(
            "ok", "label maps", "every delivered label map is the arg max of its probabilities, the likeliest class"
        )


def energy(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether raw logits are known."""
    if not cohort.head.has_free_energy:
        return
    block = facts["uncalibrated"]
    if not cohort.has_logits:
        text = (
            "only probabilities are known, not the network's raw scores (logits): free energy, the part of them that"
            " probabilities lose, has nothing to measure, and methods for logits coincide with those for probabilities"
            " (ms with dc); nothing need be done"
        )
        yield Finding("note", "free energy", text)
    elif block is not None and block["free_energy_std"] is not None:
        spread = f"{block['free_energy_std']:.3g} nats within a case"
        yield Finding(
            "note",
            "free energy",
            f"raw logits are known; their free energy spreads by {spread}, on which ms and vs may depend and ts, ms-c"
            " and dc do not",
        )


def calibration(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Calibration so far."""
    block = facts["uncalibrated"]
    if block is None or block["nll"] is None:
        return
    gap = block["confidence"] - block["accuracy"]
    word = "over" if gap > 0 else "under"
    errors = f"NLL {block['nll']:.4f}, ECE {block['ece']:.4f}, ACE {block['ace']:.4f}"
    trust = (
        f"so far {100 * block['confidence']:.1f} % sure of its labels on average, and right in"
        f" {100 * block['accuracy']:.1f} %: {word}confident by {100 * abs(gap):.1f} points"
    )
    yield Finding("note", "calibration", f"{trust} ({errors})")
