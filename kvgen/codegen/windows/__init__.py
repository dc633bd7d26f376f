"""Several tokens in one pass over the state: what a verify and a block of a prompt compute."""
