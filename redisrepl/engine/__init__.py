"""What decides: pure code without I/O and without a clock, driven alike by the daemon, `verify` and the model."""
