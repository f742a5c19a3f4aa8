-- CREATE EXTENSION into a schema in which somebody else has made functions and operators that fit better than PostgreSQL's own.
\ir lib/begin.sql
SELECT plan(4);
DROP EXTENSION kridtech;

-- One for each pair of types that the extension's columns and expressions have, where PostgreSQL has none for just that pair
-- and would convert an argument.
CREATE SCHEMA evil;
CREATE FUNCTION test.hijackers() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    types constant text[] := '{integer,bigint,numeric,double precision,boolean,text,name,bytea,jsonb,inet,oid,timestamptz,interval}';
    o record;
    made bigint := 0;
BEGIN
    FOR o IN
        SELECT op, l, r, CASE WHEN op ~ '[=<>~]' THEN 'boolean' ELSE r END AS result
          FROM unnest('{=,<>,<,<=,>,>=,+,-,*,/,~,||}'::text[]) op, unnest(types) l, unnest(types) r
         WHERE NOT EXISTS (SELECT FROM pg_operator p WHERE p.oprname = op AND p.oprleft = l::regtype AND p.oprright = r::regtype)
    LOOP
        IF to_regprocedure(format('evil.f_%s(%s,%s)', replace(o.result, ' ', '_'), o.l, o.r)) IS NULL THEN
            EXECUTE format('CREATE FUNCTION evil.f_%s(%s,%s) RETURNS %s LANGUAGE sql IMMUTABLE AS %L', replace(o.result, ' ', '_'), o.l, o.r, o.result, 'SELECT NULL::' || o.result);
        END IF;
        EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.f_%s)', o.op, o.l, o.r, replace(o.result, ' ', '_'));
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
SELECT cmp_ok(test.hijackers(), '>', 1000::bigint, 'there are operators for many pairs of types');
-- what takes any number of arguments of any types
CREATE FUNCTION evil.num_nulls(bigint, bytea, timestamptz) RETURNS integer LANGUAGE sql AS 'SELECT 0';
CREATE FUNCTION evil.num_nonnulls(text, bigint, bytea, timestamptz) RETURNS integer LANGUAGE sql AS 'SELECT 0';

SELECT lives_ok('CREATE EXTENSION kridtech SCHEMA evil', 'the extension is made there');
-- Dependencies of its views, constraints, indexes and defaults: on what is neither PostgreSQL's nor its own.
SELECT is((SELECT string_agg(pg_describe_object(d.classid, d.objid, 0) || ' uses ' || pg_describe_object(d.refclassid, d.refobjid, 0), '; ')
             FROM pg_depend d
             LEFT JOIN pg_proc f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
             LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
            WHERE 'evil'::regnamespace IN (f.pronamespace, o.oprnamespace) AND d.classid <> 'pg_operator'::regclass
              AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e')), NULL,
          'and uses none of them');
INSERT INTO kridtech.calls (call_id, call_status, duration, created_at) VALUES ('c', 'completed', 60, now() - interval '1 day');
SELECT is((SELECT count(*) FROM kridtech.missing_webhooks), 1::bigint, 'its views say what they say elsewhere');
SELECT * FROM finish();
