"""Turns shares into money: the ledger, the payout export and its proof.

Reads shares, the day's revenue and the ledger. Adds bookings and export revisions, and never edits one.
Invariants: integers of minor units, debits equal credits, `closing = opening + earned + adjustment - recouped - withheld
- paid` in every row, `revenue = developer + earned + escrowed + unattributed` in every file.
"""
