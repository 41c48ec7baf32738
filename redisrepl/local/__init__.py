"""Talks to the site's Redis: its replication stream or keyspace events, and reads and writes of keys."""
