"""The language: a spec's text to statements with positions, and every diagnostic on the way."""
