"""Entry point of `python -m prunella`."""

from prunella.cli.main import main

main()
