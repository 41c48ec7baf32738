"""What the daemon reports about itself: log lines, failures, counters."""
