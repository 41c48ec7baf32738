"""TLS, always verified: contexts for every link, certificates that are renewed, what a failure means."""
