"""Disclosures of the training corpus for laws and catalogues: forms, machine-readable files, and pages.

They are made from an inventory of the frozen corpus (`inventory.py`) and the provider's facts (`facts.py`); the same corpus,
facts and day give the same bytes.
"""
