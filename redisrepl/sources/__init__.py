"""Where the site's changes come from: its replication stream, or its keyspace events."""
