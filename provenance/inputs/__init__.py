"""A night's inputs: its corpus, outputs, models, method and contracts, frozen before anything is computed.

Reads the corpus in force, the model folder, the contracts and the day's outputs. Writes `nights/day=.../<digest>/inputs.json`.
Invariant: the same inputs are the same night, under one digest; no later stage reads anything else. Does not belong here:
computing gradients.
"""
