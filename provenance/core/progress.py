"""The log line for progress of long work; terminals show it as a bar."""

# Arguments for `log.info`: the work, items done, all items.
PROGRESS = "%s: %d of %d"
