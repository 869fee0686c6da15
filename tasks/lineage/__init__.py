"""What every task read and wrote, told as OpenLineage events."""
