"""Shows the daemon over HTTP: metrics, probes, its state as JSON, and a page for people.

Loaded only with `--listen`. No request changes anything.
"""
