"""Keeps a Redis namespace and a hub behind Webdis equal, both ways."""

__version__ = "2.0.0"
