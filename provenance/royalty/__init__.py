"""Turns influence into owner shares; the only place where floats become integers.

Reads influence by party. Writes shares in parts per billion, with intervals. Invariant: the shares of an output, with escrow
and unattributed, sum to exactly 1,000,000,000. Revenue does not belong here.
"""
