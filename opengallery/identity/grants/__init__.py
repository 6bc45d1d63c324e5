"""The grants of the token endpoint, one file each: how a token is asked for, and what proves the right to it."""
