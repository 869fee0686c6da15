"""What every stage shares: contracts, the store, money, arrays, errors.

Reads and writes nothing of its own. Does not belong here: anything that only one stage needs.
"""
