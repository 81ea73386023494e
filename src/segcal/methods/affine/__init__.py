"""Affine maps: vector, matrix, constrained matrix scaling, Dirichlet calibration."""
