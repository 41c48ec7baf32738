"""TLS, always verified: contexts for every link, renewal of certificates, explanations of failures."""
