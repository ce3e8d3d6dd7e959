"""The command line: `recdistill …`, one module for each group of commands."""
