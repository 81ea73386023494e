"""What goes in and out: cases and cohorts, heads, kinds of scores, splits, distances, simulated cohorts, files and
formats.
"""
