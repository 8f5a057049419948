"""`python -m edge` is the `edge` command, for where its folder is not on the PATH."""

from edge.cli.main import main

if __name__ == "__main__":
    main()
