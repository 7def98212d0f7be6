"""`python -m overspan` is the same command as `overspan`."""

from overspan.cli.main import main

if __name__ == "__main__":
    main()
