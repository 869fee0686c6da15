"""How Airflow is run for real: who may do what, and how people log in."""
