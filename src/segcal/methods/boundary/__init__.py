"""Temperatures by distance to the predicted boundary and by the entropy around: the map, its sums, its fit."""
