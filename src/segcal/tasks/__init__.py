"""What the command line and Python share: check, fit, choose, evaluate, apply, demo, audit."""
