"""From influence to shares: the one border between floats and integers.

Reads influence per party. Writes shares in parts per billion, with intervals. Invariant: an output's shares, with escrow
and unattributed, sum to exactly 1,000,000,000. Does not belong here: revenue.
"""
