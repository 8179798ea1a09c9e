"""`python -m capacity` is the CLI."""

from capacity.cli import main

main()
