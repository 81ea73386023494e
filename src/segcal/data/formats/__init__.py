"""What predictions come in and go out as: one file reads and writes one format."""
