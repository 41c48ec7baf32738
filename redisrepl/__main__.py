"""`python -m redisrepl` is `redisrepl`."""

import sys

from redisrepl.cli import main

if __name__ == "__main__":
    sys.exit(main())
