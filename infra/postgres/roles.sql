-- Logins and roles of the server: infra/postgres/setup.py runs this as a superuser, any number of times.
-- setup.py sets passwords. It also makes databases, which cannot be made in a transaction.
--
--   airflow      owns the database airflow: users, runs, connections
--   provenance   owns the database provenance and migrates it; works there as provenance_ledger
--   payees       may become provenance_payees and has no rights of its own: the login of database.payees_url
--   metrics      reads both databases, but neither payees nor what Airflow keeps secret
--
-- No login may make roles or databases. Migration 0004 makes the two roles below if they are missing, which needs CREATEROLE;
-- made here, the login needs no such right.

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['airflow', 'provenance', 'payees', 'metrics'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I', name);
        END IF;
    END LOOP;
    FOREACH name IN ARRAY ARRAY['provenance_ledger', 'provenance_payees'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END $$;

ALTER ROLE airflow LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
ALTER ROLE provenance LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
ALTER ROLE metrics LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT 10;
-- It can read nothing until it takes the role provenance_payees.
ALTER ROLE payees LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT;
ALTER ROLE metrics SET default_transaction_read_only = on;

GRANT provenance_ledger TO provenance;
GRANT provenance_payees TO payees;
