"""Local temperature scaling: a temperature of each voxel, from its neighbourhood."""
