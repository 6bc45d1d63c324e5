"""`Microsoft.Insights`: the activity log."""
