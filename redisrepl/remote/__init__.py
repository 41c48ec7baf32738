"""The hub: a Redis behind Webdis behind a TLS proxy, spoken to over HTTPS."""
