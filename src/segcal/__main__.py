"""`python -m segcal` is `segcal`."""

from segcal.cli import main

if __name__ == "__main__":
    main()
