"""What the daemon says of itself: log lines, troubles, counters."""
