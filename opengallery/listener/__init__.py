"""The port: TLS with certificates that may change, and what stands around every answer."""
