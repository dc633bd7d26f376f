"""What a value of a token is: its axes, its range, and the node that it is of a graph."""
