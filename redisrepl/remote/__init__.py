"""Talks to the hub: a Redis behind Webdis behind a TLS proxy, or a Redis reached directly over TLS."""
