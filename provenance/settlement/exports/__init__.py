"""Publishes nights: files, the manifest that proves them, keys, and checks of published files."""
