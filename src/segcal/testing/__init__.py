"""The conformance kit: laws for whatever is added to segcal, and checks that look for counter-examples.

    check_accumulator(make)    a metric or objective        make: number of classes to accumulator
    check_map(map)             a map of one softmax problem
    check_calibrator(it)       a calibrator of any head
    check_method(method)       a fitting method, and what it fits
    check_source(open_cohort)  a source of cases            open_cohort: nothing to cohort
    check_sink(make, read)     a format that is written     make: folder to sink; read: file to probabilities
    check_engine(make)         an engine                    make: number of workers to engine

Each check runs a list of laws (`ACCUMULATOR_LAWS`, ...). A `Law` has a name and a one-line statement, and can be
checked alone, which suits `pytest.mark.parametrize`: `law.check(subject)`. What breaks one raises `BrokenLawError`,
which names it. `strategies` holds the Hypothesis strategies behind them, `examples` cohorts whose fits are known.

Needs Hypothesis (`pip install 'segcal[testing]'`); without it, importing this package is a MissingError that says so.
Nothing else in segcal imports it.
"""

from importlib.util import find_spec

from segcal.errors import MissingError

if find_spec("hypothesis") is None:
    raise MissingError(
        "segcal.testing",
        found="no package 'hypothesis'",
        expected="Hypothesis, which draws the examples",
        do="Install it with pip install 'segcal[testing]'.",
    )

from segcal.testing.accumulators import ACCUMULATOR_LAWS, check_accumulator
from segcal.testing.calibrators import CALIBRATOR_LAWS, check_calibrator
from segcal.testing.engines import ENGINE_LAWS, check_engine
from segcal.testing.law import BrokenLawError, Law
from segcal.testing.maps import MAP_LAWS, check_map
from segcal.testing.methods import METHOD_LAWS, check_method
from segcal.testing.sinks import SINK_LAWS, SinkSubject, check_sink
from segcal.testing.sources import SOURCE_LAWS, check_source

__all__ = [
    "ACCUMULATOR_LAWS",
    "CALIBRATOR_LAWS",
    "ENGINE_LAWS",
    "MAP_LAWS",
    "METHOD_LAWS",
    "SINK_LAWS",
    "SOURCE_LAWS",
    "BrokenLawError",
    "Law",
    "SinkSubject",
    "check_accumulator",
    "check_calibrator",
    "check_engine",
    "check_map",
    "check_method",
    "check_sink",
    "check_source",
]
