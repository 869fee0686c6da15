"""What a model was trained on, as laws and catalogues ask for it: forms, files for machines, and pages to read.

Everything is made from one inventory of the frozen corpus (`inventory.py`) and from what only the provider knows
(`facts.py`); the same corpus, facts and day give the same bytes.
"""
