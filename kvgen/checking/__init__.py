"""A generated module against its recurrence in float64."""
