"""`python -m recdistill` is the command line."""

from recdistill.cli.main import main

if __name__ == "__main__":
    main()
