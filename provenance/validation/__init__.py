"""Validation: is the attribution true? Its predictions are held against models retrained without what they say matters.

Reads scores, and losses of retrained models. Writes figures of merit with intervals, tables and plots. Invariant: what is
tuned is tuned on other subsets than those reported. Does not belong here: training itself, which adapters do.
"""
