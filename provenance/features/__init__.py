"""Gradient features: what training on each example did to the model, in a few thousand numbers.

Reads frozen shards and a model folder. Writes one feature file per shard and checkpoint, under the digest of all that
went into it. Invariant: computed once, finite, equal to per-example autograd projected by the same matrices. Does not
belong here: what influences what.
"""
