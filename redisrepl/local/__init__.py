"""The site's Redis: its replication stream, and reads and writes of keys."""
