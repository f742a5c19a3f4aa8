-- What CREATE EXTENSION makes, and that all of it is described and nothing of it is anybody's.
\set VERBOSITY terse
\set SHOW_CONTEXT never
SET client_min_messages = warning;

-- a schema kridtech that is there already is somebody else's: a clear error, and nothing is left behind
CREATE SCHEMA kridtech;
CREATE EXTENSION kridtech;
DROP SCHEMA kridtech;
SELECT count(*) FROM pg_extension WHERE extname = 'kridtech';
-- a function of the same signature stops the installation too, instead of being replaced
CREATE FUNCTION kridtech_variables(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE EXTENSION kridtech;
DROP FUNCTION kridtech_variables(jsonb);
SELECT count(*) FROM pg_namespace WHERE nspname = 'kridtech';

-- functions go to the schema the user picks, the rest to the schema kridtech
CREATE SCHEMA telephony;
CREATE EXTENSION kridtech SCHEMA telephony;
SELECT n.nspname, count(*) > 0 AS has_functions
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'kridtech'
  JOIN pg_proc p ON p.oid = d.objid JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
 GROUP BY 1;
SELECT n.nspname, count(*) > 0 AS has_relations
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'kridtech'
  JOIN pg_class c ON c.oid = d.objid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass
 GROUP BY 1;
SELECT telephony.kridtech_variables('[{"variable": "a", "value": 1}]');
-- not relocatable
ALTER EXTENSION kridtech SET SCHEMA public;
SELECT extrelocatable FROM pg_extension WHERE extname = 'kridtech';
-- and all of it goes again
DROP EXTENSION kridtech;
SELECT count(*) FROM pg_namespace WHERE nspname = 'kridtech';
SELECT count(*) FROM pg_proc WHERE proname LIKE 'kridtech%';
DROP SCHEMA telephony;

-- not trusted: who may create in the database may still not install it
CREATE ROLE regress_kridtech_creator;
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO regress_kridtech_creator', current_database()); END $$;
SET ROLE regress_kridtech_creator;
CREATE EXTENSION kridtech;
RESET ROLE;
DO $$ BEGIN EXECUTE format('REVOKE CREATE ON DATABASE %I FROM regress_kridtech_creator', current_database()); END $$;
DROP ROLE regress_kridtech_creator;

CREATE EXTENSION kridtech;

-- every object, as \dx+ lists them (without row types, which versions list differently)
SELECT pg_describe_object(classid, objid, 0) AS object
  FROM pg_depend
 WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid <> 'pg_type'::regclass
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kridtech')
 ORDER BY pg_describe_object(classid, objid, 0) COLLATE "C";

-- functions: arguments, result, volatility, strictness, parallel safety
\pset format unaligned
SELECT format(E'%s(%s)', p.proname, pg_get_function_arguments(p.oid)) AS function, pg_get_function_result(p.oid) AS result,
       p.provolatile AS volatile, p.proisstrict AS strict, p.proparallel AS parallel, p.prosecdef AS definer
  FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
 WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kridtech')
 ORDER BY p.proname COLLATE "C";
\pset format aligned

-- the following four queries list what is missing: nothing
-- objects of the extension (and their columns) without a comment
WITH objects AS (
    SELECT d.classid, d.objid
      FROM pg_depend d
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND d.classid <> 'pg_type'::regclass
       AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kridtech')
), parts AS (
    SELECT classid, objid, 0 AS objsubid FROM objects
     UNION ALL
    SELECT o.classid, o.objid, a.attnum
      FROM objects o JOIN pg_class c ON o.classid = 'pg_class'::regclass AND c.oid = o.objid
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relkind IN ('r', 'p', 'v', 'm')
)
SELECT pg_describe_object(classid, objid, objsubid) AS without_comment
  FROM parts p
 WHERE NOT EXISTS (SELECT FROM pg_description x
                    WHERE x.classoid = p.classid AND x.objoid = p.objid AND x.objsubid = p.objsubid
                      AND length(x.description) > 10)
 ORDER BY 1;
-- what PUBLIC may do, by the access list that holds (the default one where none is stored)
WITH objects AS (
    SELECT d.classid, d.objid FROM pg_depend d
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
       AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kridtech')
), acls AS (
    SELECT classid, objid, coalesce(n.nspacl, acldefault('n', n.nspowner)) AS acl
      FROM objects JOIN pg_namespace n ON classid = 'pg_namespace'::regclass AND n.oid = objid
     UNION ALL
    SELECT classid, objid, coalesce(p.proacl, acldefault('f', p.proowner))
      FROM objects JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid
     UNION ALL
    SELECT classid, objid, coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner))
      FROM objects JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid
     UNION ALL
    SELECT classid, objid, a.attacl
      FROM objects JOIN pg_attribute a ON classid = 'pg_class'::regclass AND a.attrelid = objid AND a.attacl IS NOT NULL
)
SELECT pg_describe_object(classid, objid, 0) AS object, x.privilege_type AS public_has
  FROM acls, aclexplode(acl) x WHERE x.grantee = 0 ORDER BY 1, 2;
-- relations in the schema kridtech that the extension does not own
SELECT c.relname FROM pg_class c
 WHERE c.relnamespace = 'kridtech'::regnamespace AND c.relkind NOT IN ('i', 't', 'c')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e');
-- tables and sequences that pg_dump would leave empty
SELECT c.relname FROM pg_class c, pg_extension e
 WHERE e.extname = 'kridtech' AND c.relnamespace = 'kridtech'::regnamespace AND c.relkind IN ('r', 'p', 'S')
   AND NOT c.oid = ANY (e.extconfig);

-- what a dump keeps must not be narrowed: no condition hides rows
SELECT c.relname, cond FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS x(rel, cond)
  JOIN pg_class c ON c.oid = x.rel WHERE e.extname = 'kridtech' ORDER BY 1;

-- the tables refuse what no request may be
INSERT INTO kridtech.call_requests (to_number) VALUES ('4155550123');
INSERT INTO kridtech.call_requests (to_number) VALUES (NULL);
INSERT INTO kridtech.call_requests (to_number) VALUES ('+0155550123');
INSERT INTO kridtech.call_requests (to_number) VALUES (E'+14155550123\n');
INSERT INTO kridtech.call_requests (to_number, dynamic_variables) VALUES ('+14155550123', '[]');
INSERT INTO kridtech.call_requests (to_number, account_id) VALUES ('+14155550123', '');
INSERT INTO kridtech.call_requests (to_number, state) VALUES ('+14155550123', 'ringing');
INSERT INTO kridtech.call_requests (to_number, attempts) VALUES ('+14155550123', -1);
INSERT INTO kridtech.call_requests (to_number, not_before, not_after)
VALUES ('+14155550123', '2030-01-02', '2030-01-01');
INSERT INTO kridtech.accounts VALUES ('');
INSERT INTO kridtech.accounts VALUES ('a', '');
SELECT count(*) FROM kridtech.call_requests;
SELECT count(*) FROM kridtech.accounts;

DROP EXTENSION kridtech;
