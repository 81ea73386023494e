"""Findings rendered for people: figures now, drawn from the numbers of an evaluation and never recomputed from
voxels.
"""
