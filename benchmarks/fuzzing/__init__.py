"""A seeded fuzzer of the command line: valid folders of every layout (`nursery`), harmed in one to three ways that know
their format (`harm`, `values`), under words that may be wrong themselves (`words`), each run in a fork of one warm
process that is measured and judged (`runner`).

The same seed and number give the same input. `benchmarks/fuzz.py` runs many and writes what was found;
tests/hostile/test_fuzz.py runs some with every suite, and shows that each check can fail.
"""
