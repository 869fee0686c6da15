"""Serves the page of nights, audits and credits inside Airflow's UI, behind Airflow's authentication."""
