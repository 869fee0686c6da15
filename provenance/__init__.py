"""Provenance: whose work a generative model's outputs rest on, and what each owner is paid for it.

The product itself: plain functions over tables, arrays and a store. It knows nothing of Airflow, of Dask or of
environment variables; `tasks` opens those and hands them in. Sub-packages are listed in the order in which data flows:
`core`, `corpus`, `features`, `influence`, `royalty`, `settlement`.
"""

__version__ = "0.1.0"
