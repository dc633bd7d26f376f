"""What is done to a kernel before it is printed: each takes a kernel and gives a kernel."""
