"""Runs the production shape on one machine: PostgreSQL, S3, Dask and Airflow as processes under supervisord."""
