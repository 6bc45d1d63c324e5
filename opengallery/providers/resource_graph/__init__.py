"""`Microsoft.ResourceGraph`: the one query that az asks, for the community galleries."""
