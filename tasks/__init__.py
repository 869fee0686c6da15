"""Runs the stages of `provenance` for Airflow and the command line: opens stores, clusters and databases from the settings.

Settings from files and the environment are read here only. A task hands the next one the key of a manifest.
"""
