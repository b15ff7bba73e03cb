"""`python -m bems`: the command line."""

from bems.cli import main

main()
