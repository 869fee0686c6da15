"""Settles a month: closes it, pays it after two approvals, and writes a statement for every owner."""
