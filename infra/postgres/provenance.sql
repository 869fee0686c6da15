-- In the database provenance, as a superuser, any number of times. Rights on the schema payees are granted by its migration,
-- to provenance_payees only.

REVOKE ALL ON DATABASE provenance FROM PUBLIC;
GRANT CONNECT ON DATABASE provenance TO metrics, payees;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO provenance;
GRANT USAGE ON SCHEMA public TO metrics;
ALTER DEFAULT PRIVILEGES FOR ROLE provenance IN SCHEMA public GRANT SELECT ON TABLES TO metrics;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO metrics;
