"""`python -m cli` is the `daybook` command."""

from cli.main import main

main()
