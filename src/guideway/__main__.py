"""`python -m guideway`: the command line."""

from guideway.cli import main

main()
