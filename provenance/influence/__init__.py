"""Influence: scores each example's influence on each output, summed per party as it is computed.

Reads feature files of a corpus and of the day's outputs. Writes the curvature (once per corpus and model), influence per
party and component, and evidence. Invariant: sums merge associatively, so shards, retries and the number of workers change
only rounding. Does not belong here: money.
"""
