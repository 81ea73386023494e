"""The papers' protocol from one file: repeats, pipelines, shift, sensitivity, statistics, tables and figures (K26 Section 4 and Appendices C to J)."""
