"""Open Gallery: a self-hosted Shared Image Gallery."""
