"""Collects data for operators: nights, one night in detail, runs of Airflow."""
