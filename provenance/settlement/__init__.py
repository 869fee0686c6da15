"""From shares to money: the ledger, the payout export and its proof.

Reads shares, the day's revenue and the ledger. Writes bookings (only ever added) and export revisions (never edited).
Invariants: integers of minor units, debits equal credits, `closing = opening + earned + adjustment - recouped - withheld
- paid` in every row, `revenue = developer + earned + escrowed + unattributed` in every file. Does not belong here: how a
share came about.
"""
