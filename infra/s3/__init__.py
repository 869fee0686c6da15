"""The bucket of the store: who may do what in it, and how it is kept."""
