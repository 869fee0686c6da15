"""Models: the served model, and the counterfactual models trained on parts of the owners.

Reads a model folder and the frozen corpus. Writes model folders under their digests, and a record of each counterfactual
model. Invariant: the name of a training is the digest of all that decides it, so each is trained once; a model counts only
after a check that it was trained on the works that it lists. Does not belong here: the value of outputs.
"""
