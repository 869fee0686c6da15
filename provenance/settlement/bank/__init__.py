"""Writes files for banks and PayPal, and reads the answers of banks; mostly pure functions on bytes."""
