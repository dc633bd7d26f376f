"""The generated module's text: what the recurrence decides in it, printed for the templates."""
