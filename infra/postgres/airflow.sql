-- In the database airflow, as a superuser, any number of times; run it again after Airflow's migrations.

REVOKE ALL ON DATABASE airflow FROM PUBLIC;
GRANT CONNECT ON DATABASE airflow TO metrics;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO airflow;
GRANT USAGE ON SCHEMA public TO metrics;
ALTER DEFAULT PRIVILEGES FOR ROLE airflow IN SCHEMA public GRANT SELECT ON TABLES TO metrics;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO metrics;

-- No metric needs connections, variables, users, passwords or sessions.
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['connection', 'variable', 'ab_user', 'ab_register_user', 'session', 'revoked_token'] LOOP
        IF to_regclass('public.' || quote_ident(name)) IS NOT NULL THEN
            EXECUTE format('REVOKE ALL ON public.%I FROM metrics', name);
        END IF;
    END LOOP;
END $$;
