"""Influence: how much each example moved the model towards each output, summed per owner as it is computed.

Reads feature files of a corpus and of the day's outputs. Writes the curvature (once per corpus and model), influence per
party and checkpoint, and evidence. Invariant: sums merge associatively, so shards, retries and the number of workers
cannot change the meaning. Does not belong here: money.
"""
