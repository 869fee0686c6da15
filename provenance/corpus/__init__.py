"""The training corpus and the outputs of a day: examples, claims, owners, rights, disclosures.

Reads deliveries and checks them against the tables' contracts. Writes frozen, content-addressed shards, which never change.
"""
