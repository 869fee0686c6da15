"""What the model was trained on and what it answered: examples, claims, owners, and the day's outputs.

Reads the corpus folder and the day's outputs as they were delivered. Writes frozen, content-addressed copies, cut into
shards. Invariant: a frozen part is never edited; whatever breaks a contract stops here. Does not belong here: gradients.
"""
