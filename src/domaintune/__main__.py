"""`python -m domaintune` is the command line."""

from domaintune.cli import main

main()
