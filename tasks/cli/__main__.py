"""Runs the command line: `python -m tasks.cli`."""

from tasks.cli import main

main()
