"""How it runs: Airflow on one machine, the demo, settings and locks."""
