"""The database server: logins, roles and databases."""
