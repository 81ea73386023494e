"""Calibrators where networks run."""
