"""Several tokens in one pass over the state, row upon row: a verify of any window, and a block of a
prompt."""
