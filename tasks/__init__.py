"""Where things run: one module per stage, which opens stores, clusters and databases, calls the stage in `provenance` and
publishes what it returns.

A task reads named manifests and writes one; what it hands to the next task is the manifest's key. Settings from files and
the environment end here.
"""
