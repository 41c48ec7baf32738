"""The daemon seen from outside over HTTP: metrics, probes, its state as JSON, and a page for people.

Loaded only if `--listen` is given. Nothing that is asked here changes anything.
"""
