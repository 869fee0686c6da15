"""Where things run: one module per stage.

A task opens stores, clusters and databases, calls its stage in `provenance` and publishes what that returns. It reads named
manifests and writes one; what it hands to the next task is the manifest's key. Settings from files and the environment end
here.
"""
