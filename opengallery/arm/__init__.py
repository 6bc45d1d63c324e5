"""Azure Resource Manager itself. Knows no resource type; the files under `providers/` declare those."""
