"""The production shape as ordinary processes of one machine: PostgreSQL, S3, Dask and all of Airflow, under supervisord."""
