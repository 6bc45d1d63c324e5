"""Which replicas there should be, and making it so."""
