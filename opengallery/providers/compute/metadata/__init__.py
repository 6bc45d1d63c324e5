"""The instance metadata service: what a guest learns at 169.254.169.254, its tokens above all."""
