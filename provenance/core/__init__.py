"""Code that every stage shares: tables, the store, money, arrays, errors.

Reads and writes nothing of its own. Code for a single stage belongs into the stage's package.
"""
