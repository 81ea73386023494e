"""What calibrated probabilities let a person do: sums of each case, and what they say of its Dice, its volumes, and of
where a structure may also be.

    sums        what is summed of a case, in one pass
    dice        the Dice to be expected of a delivered label map
    conformal   thresholds with a guarantee over groups (patients)
    reference   labelled cases that a calibrator was not fitted on, by which thresholds are set
    drift       whether new cases look like these
    triage      which cases to look at first, and what ordering by expected Dice is worth
"""
