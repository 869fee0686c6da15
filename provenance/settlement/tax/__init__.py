"""Writes what business payees need: invoices in their name, and the tables of a year."""
