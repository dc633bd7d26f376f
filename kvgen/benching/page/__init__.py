"""A report as one HTML page that needs nothing else: figures are inline SVG, colours are CSS."""
