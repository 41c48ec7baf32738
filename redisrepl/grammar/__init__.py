"""The command line as words: its commands, flags and the texts of `--help`. Nothing here talks to a server."""
