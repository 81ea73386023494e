"""The scores as they came."""

VERSION = "-"


def fit(training):
    """Nothing is learnt."""
    return lambda case: case.log_probs


ENTRANTS = {"identity": fit}
