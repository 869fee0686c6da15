"""Sources: the places where works were collected, with all their names."""
