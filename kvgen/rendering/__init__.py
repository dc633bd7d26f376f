"""A module as text: its templates filled, laid out, with what it reaches of the runtime."""
