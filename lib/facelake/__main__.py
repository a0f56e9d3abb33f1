"""`python -m facelake`."""

from facelake.cli import main

main()
