"""Keeps payees' bank and tax details: sealed, versioned, never shown."""
