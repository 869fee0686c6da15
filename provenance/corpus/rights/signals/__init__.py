"""What the sources of works say about their use, machine-readable: read, kept as it was, and weighed.

A module for each kind reads an answer (`answers.Answer`) into rows of the signals table and never raises: what cannot be read
is a row that says why. `fetch` asks servers, `verdicts` says what counts.
"""
