"""Features: a few thousand numbers of each example's gradient, or its word counts.

Reads frozen shards and a model folder. Writes one feature file per shard and checkpoint, under the digest of all its
ingredients. Invariant: computed once, finite, equal to per-example autograd projected by the same matrices. Does not belong
here: comparing examples with outputs.
"""
