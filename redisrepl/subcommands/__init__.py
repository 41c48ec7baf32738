"""One module for each subcommand; cli.py parses their arguments and calls their `run`."""
