"""TLS, always verified: contexts for every link, renewal of certificates, what a failure means."""
