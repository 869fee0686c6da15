"""Sets up the database server: logins, roles and databases."""
