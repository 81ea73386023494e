"""`segcal copies`: what a network says of copies of each image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter, validators

from segcal.cli.console import Output
from segcal.cli.options import (
    AS_USUAL,
    SCORES_AS_THEY_ARE,
    Running,
    Scores,
    Seed,
    all_there,
    claim,
    cohort_of,
    engine_of,
    typed,
)
from segcal.data.files.reading import check_there
from segcal.errors import UsageError

DRAWN = Group("Copies made here", help="With --segmenter: the network, and how copies differ.", sort_key=0)
Range = tuple[float, float]


def copies(
    results: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    of: Literal["probs", "log_probs"] = "probs",
    kept: Annotated[int, Parameter(validator=validators.Number(lte=1_000))] = 18,
    segmenter: Annotated[Path | None, Parameter(group=DRAWN)] = None,
    gives: Annotated[Literal["logits", "probs", "log_probs"], Parameter(group=DRAWN)] = "logits",
    normalise: Annotated[Literal["none", "zscore", "unit", "percentile"], Parameter(group=DRAWN)] = "none",
    multiple: Annotated[int, Parameter(group=DRAWN, validator=validators.Number(gte=1, lte=1_024))] = 1,
    border: Annotated[Literal["reflect", "zero"], Parameter(group=DRAWN)] = "reflect",
    count: Annotated[int, Parameter(group=DRAWN, validator=validators.Number(lte=100_000))] = 180,
    at: Annotated[tuple[int, ...], Parameter(group=DRAWN, consume_multiple=True, show_default=False)] = (),
    contrast: Annotated[Range, Parameter(group=DRAWN)] = (0.6, 1.5),
    brightness: Annotated[Range, Parameter(group=DRAWN, allow_leading_hyphen=True)] = (-10.0, 10.0),
    gamma: Annotated[Range, Parameter(group=DRAWN)] = (0.6, 1.5),
    noise: Annotated[float, Parameter(group=DRAWN)] = 0.15,
    seed: Seed = 0,
    scores: Scores = SCORES_AS_THEY_ARE,
    running: Running = AS_USUAL,
) -> int:
    """Write what a network says of slightly changed copies of each image, for --method susceptibility.

    Where the percentages move when contrast, brightness or noise of the image change a little, they are less sure than
    they look. Either the copies were predicted already, a folder of predictions a copy, or an ONNX network predicts
    them here; then RESULTS are its predictions of the images, and --images the images:

        segcal copies COPY0 COPY1 COPY2 -o COPIES
        segcal copies RESULTS --images IMAGES --segmenter net.onnx -o COPIES

    An interrupted run goes on where it was: run the same command again. Afterwards give --copies COPIES to segcal fit,
    evaluate and apply; of NEW cases the copies are made the same way.

    Parameters
    ----------
    results
        Folders of predictions of copies, one a copy; or the predictions of the images, with --segmenter.
    output
        The folder to write to: CASE.npz with mean and spread over all copies and the scores of the first few.
    of
        Mean and spread of probabilities, or of their logarithms.
    kept
        Copies whose scores are kept, to learn from.
    segmenter
        The network, an ONNX file with an input (1, channels, *spatial) and scores (1, classes, *spatial). Needs: pip
        install "segcal[onnx]". Any other network: in Python, segcal.tasks.copies.
    gives
        What the network's output is: raw scores, probabilities or their logarithms.
    normalise
        What is done to an image before the network sees it: nothing; less its mean, in units of its standard deviation;
        8-bit values divided by 255; or its 1st percentile at 0 and its 99.8th at 1, cut to 0 to 1.5. Copies are made of
        the result.
    multiple
        Sides are padded at their ends to a multiple of this.
    border
        With what they are padded.
    count
        Copies of each image.
    at
        Also the state after so many of them, in folders OUTPUT/firstN.
    contrast
        Factor about the mean, from LOW to HIGH.
    brightness
        Added, in standard deviations of the network's input, from LOW to HIGH.
    gamma
        Exponent on the input's range, from LOW to HIGH.
    noise
        Standard deviation of noise, in those of the input.
    seed
        Another seed draws other copies.
    """
    all_there(running, results, scores)
    if scores.copies is not None:
        raise UsageError("--copies", found=str(scores.copies), expected="nothing", do="Name the output: -o COPIES.")
    if segmenter is not None:
        check_there(segmenter, "a network in an ONNX file")
        if scores.images is None:
            raise UsageError(
                "--segmenter", found="no --images", expected="the images it is to see", do="Give --images FOLDER."
            )
    from segcal.tasks.copies import making, segmenters
    from segcal.tasks.copies.ranges import Ranges

    out = Output(running.quiet, running.json)
    how = making.Making(of, kept)
    cohort = cohort_of(results, scores)
    claim(running, inputs=[*results, *scores.read(), segmenter], cohort=cohort)
    with engine_of(running) as engine:
        if segmenter is None:
            done = making.condense(cohort, output, engine, how, overwrite=running.overwrite)
        else:
            drawing = making.Drawing(count, at, Ranges(contrast, brightness, gamma, noise), seed, gives, normalise)
            network = segmenters.Onnx(segmenter, multiple, border, engine.workers)
            done = making.predict(cohort, output, network, drawing, how, engine, overwrite=running.overwrite)
    number = count if segmenter is not None else cohort.members
    left = len(cohort) - len(done)
    out.text(
        f"{len(done)} cases written to {output}, {number} copies each"
        + (f"; {left} were there already (--overwrite makes them anew)" if left else "")
    )
    images: list[str | Path] = ["--images", scores.images] if scores.images is not None and segmenter is None else []
    words = ["RESULTS", "--labels", "LABELS", *images, "--copies", output, "--method", "susceptibility"]
    out.text("next: " + typed("segcal", "fit", words, "-o", "cal.safetensors"))
    out.json({"output": str(output), "copies": number, "written": done, "there_already": left})
    return 0
