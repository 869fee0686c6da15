"""Machine-readable signals of sites on the use of works: fetch them, read them, and decide which count.

One module for each kind reads an answer (`responses.Answer`) into rows of the signals table. It never raises: an unreadable
answer gives a row with the reason. `fetch` asks servers; `verdicts` decides.
"""
