"""Which value of a recurrence is computed where: a module for each way to lay out a kernel."""
