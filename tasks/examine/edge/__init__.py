"""What a variant does with input at and beyond the edges: refuse, survive, answer as before."""
