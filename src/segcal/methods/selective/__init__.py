"""Selective scaling: a net that picks voxels it takes for mispredicted, and a temperature for those and the rest."""
