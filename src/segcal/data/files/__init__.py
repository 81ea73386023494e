"""Files: what may be read, and writing so that a file is complete or absent."""
