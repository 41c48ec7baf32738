"""A clock for parts that are told what tells the time."""


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, now=100.0):
        self.now = now

    def __call__(self):
        return self.now
