"""Computes influence and shares on folders of this machine, without money or a database.

The stages are the night's own; their store lies in the result's folder.
"""
