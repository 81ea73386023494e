"""`segcal fit`: fit one method or several, with numbers from cases that each fit did not see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from segcal.cli.console import Output
from segcal.cli.options import AS_USUAL, LABELLED_AS_THEY_ARE, Labelled, Running, Seed
from segcal.methods import BUILT_IN

METHOD = f"""One or several, with commas: {", ".join(f"{name} ({place.gist})" for name, place in BUILT_IN.items())}; or
that of an installed package. Or auto: of those that are solved exactly (all but iop and the lts) the simplest that
keeps the segmentation map and is as good as the best; none, if none gains.""".replace("\n", " ")


def fit(
    results: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    method: Annotated[str, Parameter(help=METHOD)] = "ts",
    lambda_: Annotated[float | Literal["cv"] | None, Parameter(name="--lambda")] = None,
    mu: float | None = None,
    penalty: Literal["ts", "odir"] | None = None,
    gauge: Literal["free", "pinned"] | None = None,
    experts: Literal["joint", "independent"] | None = None,
    eps: float | None = None,
    solver: Literal["exact", "recipe"] = "exact",
    trials: Annotated[int | None, Parameter(validator=validators.Number(lte=10_000))] = None,
    storage: Path | None = None,
    level: Literal["voxel", "image"] | None = None,
    slice_axis: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    epochs: Annotated[int | None, Parameter(validator=validators.Number(lte=100_000))] = None,
    patience: int | None = None,
    option: tuple[str, ...] = (),
    folds: int = 5,
    seed: Seed = 0,
    no_crossfit: Annotated[bool, Parameter(show_default=False)] = False,
    free_decision: Annotated[bool, Parameter(show_default=False)] = False,
    may_change_labels: Annotated[bool, Parameter(show_default=False)] = False,
    invariant: Annotated[bool, Parameter(show_default=False)] = False,
    among: str | None = None,
    scores: Labelled = LABELLED_AS_THEY_ARE,
    running: Running = AS_USUAL,
) -> int:
    """Fit a calibrator on labelled held-out cases and report how it does on cases it did not see.

    Use cases the network was not trained on. Each case is also scored by a calibrator fitted without it and its group
    (cross-fitting): the table before and after is held out by construction, with an interval over groups. The
    calibrator remembers its cases and how their scores were made. A calibrator that is there already is replaced,
    whole; any other file only with --overwrite.

        segcal fit RESULTS --labels LABELS --method auto -o cal.safetensors
        segcal fit RESULTS --labels LABELS --method dc -o cal.safetensors
        segcal fit RESULTS --labels LABELS --method ts,ets,dc -o CALIBRATORS

    Give --groups where several cases are of one patient or sequence. Afterwards: segcal evaluate on other cases, segcal
    apply on new ones.

    Parameters
    ----------
    results
        One folder of predictions, or several: the members of an ensemble.
    output
        The file to write; with several methods a folder, one METHOD.safetensors each.
    lambda_
        Of methods with a penalty: its strength, a number, or 'cv' (default) to choose it by cross-validation over
        cases.
    mu
        Strength of the penalty on the biases; as --lambda unless given.
    penalty
        'ts' (default) shrinks to temperature scaling, 'odir' is the penalty of the papers.
    gauge
        Of that penalty where a method has bounds: 'free' (default), as the paper states it, or 'pinned', as its
        authors' library has it.
    experts
        'joint' (default) weighs the penalty of a predicted class by how rare it is, 'independent' does not;
        of methods with a matrix for each predicted class.
    eps
        A small ridge that makes the optimum unique.
    solver
        'exact' (default), or 'recipe': as the papers train, by Adam, early stopping on a third of the groups and a
        search by Optuna. For comparison; slow.
    trials
        Trials of the recipe's search; 20 unless given.
    storage
        A file the recipe keeps its finished trials in: an interrupted fit, started again with the same words, goes on
        from there.
    level
        Of methods that look at neighbours: a temperature a 'voxel' (default), or one an 'image'.
    slice_axis
        Of methods that look at neighbours: the spatial axis of a volume whose slices are the planes in which they lie;
        the first, 0, unless given.
    learning_rate
        Of methods that are trained: the first learning rate of Adam.
    weight_decay
        Of methods that are trained: weight decay on all parameters; none unless given.
    epochs
        Of methods that are trained: most epochs.
    patience
        Of methods that are trained: epochs without a better validation NLL that end the training.
    option
        Another option of the method, NAME=VALUE; segcal methods lists them.
    folds
        Folds of cross-fitting and cross-validation; groups stay whole.
    seed
        Seed of the folds, of the recipe, and of what a method draws at random.
    no_crossfit
        Leave out the cross-fitted numbers.
    free_decision
        Region heads: let probabilities cross 0.5, which changes label maps.
    may_change_labels
        With auto: allow methods that change the segmentation map.
    invariant
        With auto: only methods that an offset of all logits of a voxel does not move.
    among
        With auto: compare these methods only, with commas.
    """
    from segcal.cli import choosing, fits
    from segcal.cli.options import claim, cohort_of, engine_of, warn
    from segcal.data.files import claims

    out = Output(running.quiet, running.json)
    recipe = fits.recipe_of(solver, trials, storage, seed)
    options: dict[str, object] = {
        "lambda_": lambda_,
        "mu": mu,
        "penalty": penalty,
        "gauge": gauge,
        "experts": experts,
        "eps": eps,
        "solver": recipe,
    }
    options |= {
        "level": level,
        "slice_axis": slice_axis,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "epochs": epochs,
        "patience": patience,
    }
    options |= fits.further(option, options)
    choosing.only_for_auto(
        method, {"--may-change-labels": may_change_labels, "--invariant": invariant, "--among": among is not None}
    )
    if method == choosing.AUTO:
        choosing.not_for_auto(
            {
                **{fits.flag(name): value is not None for name, value in options.items()},
                "--no-crossfit": no_crossfit,
                "--free-decision": free_decision,
            }
        )
        file = fits.files_of(output, [method])[method]
        cohort = cohort_of(results, scores).labelled()
        claim(running, [(file, claims.CALIBRATOR)], [*results, *scores.read()], cohort)
        told = warn(out, cohort, running)
        with engine_of(running) as engine:
            found, chosen = choosing.run(
                cohort,
                engine,
                among=among,
                may_change_labels=may_change_labels,
                invariant=invariant,
                folds=folds,
                seed=seed,
            )
        choosing.show(out, found, chosen, file, scores.advised(told))
        out.json(
            {
                **fits.to_json(chosen, {found.chosen: file}),
                "notes": [*map(str, told), *chosen.notes],
                "recommendation": found.to_json(),
            }
        )
        return 0
    methods = fits.methods_of(method, options, seed)
    files = fits.files_of(output, list(methods))
    cohort = cohort_of(results, scores).labelled()
    written = [*((path, claims.CALIBRATOR) for path in files.values()), (storage, claims.TRIALS)]
    claim(running, written, [*results, *scores.read()], cohort)
    told = warn(out, cohort, running)
    keep = fits.keep_decision(cohort, free_decision)
    with engine_of(running) as engine:
        done = fits.run(methods, cohort, engine, crossfit=not no_crossfit, folds=folds, seed=seed, keep_decision=keep)
    fits.save(done, files)
    fits.show(out, done, files, scores.advised(told))
    out.json({**fits.to_json(done, files), "notes": [*map(str, told), *done.notes]})
    return 0
