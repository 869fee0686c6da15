"""Corpora from installed packages, which every machine can collect."""
