-- The settings: their defaults, who may set them, what is refused. Nothing here changes the server.
\set SHOW_CONTEXT never
SET client_min_messages = error;
\set VERBOSITY sqlstate
-- A placeholder that was set before the library is loaded does not survive as a setting. Where the library is
-- preloaded there is no placeholder: SET is refused.
DO $$
BEGIN
    PERFORM set_config('kridtech.base_url', 'http://attacker.example', false);
EXCEPTION WHEN cant_change_runtime_param THEN NULL;
END
$$;
LOAD 'kridtech';
SELECT current_setting('kridtech.base_url') LIKE '%attacker%' AS hijacked;
-- the same, stored for the database and for the role by a session that has not loaded the library: refused where
-- the library is preloaded, void once it is loaded where it is not
\c -
SET client_min_messages = error;
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET kridtech.base_url = %L', current_database(), 'http://attacker.example');
    EXECUTE format('ALTER ROLE %I SET kridtech.api_key_file = %L', current_user, '/attacker');
EXCEPTION WHEN cant_change_runtime_param THEN NULL;
END
$$;
\c -
SET client_min_messages = error;
LOAD 'kridtech';
SELECT current_setting('kridtech.base_url') LIKE '%attacker%' OR current_setting('kridtech.api_key_file') LIKE '%attacker%' AS hijacked;
-- taken back by a session that, too, has not loaded it: what it knows cannot be reset either
\c -
SET client_min_messages = error;
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I RESET kridtech.base_url', current_database());
    EXECUTE format('ALTER ROLE %I RESET kridtech.api_key_file', current_user);
EXCEPTION WHEN cant_change_runtime_param THEN NULL;
END
$$;
LOAD 'kridtech';

-- defaults, units and contexts, as the documentation has them
SELECT name, boot_val, unit, vartype, context, min_val, max_val
  FROM pg_settings
 WHERE name IN ('kridtech.base_url', 'kridtech.api_key_file', 'kridtech.account_id', 'kridtech.ca_file',
                'kridtech.connect_timeout', 'kridtech.request_timeout', 'kridtech.databases',
                'kridtech.max_concurrent_requests', 'kridtech.calls_per_second', 'kridtech.max_unknown',
                'kridtech.correlate', 'kridtech.max_queued_per_transaction', 'kridtech.settle_time',
                'kridtech.notify', 'kridtech.probe_interval', 'kridtech.retry_limit',
                'kridtech.sync_interval', 'kridtech.webhook_grace', 'kridtech.retention',
                'kridtech.webhook_max_unverified', 'kridtech.webhook_max_inbox', 'kridtech.recordings',
                'kridtech.recording_hosts', 'kridtech.recording_max_size', 'kridtech.recording_timeout',
                'kridtech.recording_max_age')
 ORDER BY name COLLATE "C";
-- whatever exists under the prefix is described, and none can be set by a role or in a session
SELECT name, context, short_desc FROM pg_settings
 WHERE name LIKE 'kridtech.%' AND (context NOT IN ('sighup', 'postmaster') OR length(short_desc) < 10);

-- an ordinary role, and a superuser, can set none of them: session, transaction, role, database, function
CREATE ROLE regress_kridtech_user;
CREATE FUNCTION refused(statement text, OUT state text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    state := 'let pass';
EXCEPTION WHEN OTHERS THEN
    state := SQLSTATE;
END
$$;
CREATE VIEW attempts AS
    SELECT s.name, a.what, format(a.statement, s.name, s.setting) AS statement
      FROM pg_settings s,
           (VALUES ('SET', 'SET %1$s = %2$L'), ('SET LOCAL', 'SET LOCAL %1$s = %2$L'), ('RESET', 'RESET %1$s'),
                   ('set_config', 'SELECT set_config(%1$L, %2$L, false)'),
                   ('ALTER ROLE', 'ALTER ROLE regress_kridtech_user SET %1$s = %2$L'),
                   ('function', 'CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET %1$s = %2$L AS ''SELECT 1''')) AS a(what, statement)
     WHERE s.name LIKE 'kridtech.%'
     UNION ALL
    SELECT s.name, 'ALTER DATABASE', format('ALTER DATABASE %I SET %s = %L', current_database(), s.name, s.setting)
      FROM pg_settings s WHERE s.name LIKE 'kridtech.%'
     UNION ALL
    SELECT s.name, 'ALTER ROLE ALL', format('ALTER ROLE ALL SET %s = %L', s.name, s.setting)
      FROM pg_settings s WHERE s.name LIKE 'kridtech.%';
GRANT SELECT ON attempts TO regress_kridtech_user;
-- as the superuser: 55P02 for all
SELECT what, refused(statement) AS state, count(*) > 5 AS several FROM attempts GROUP BY 1, 2 ORDER BY what COLLATE "C", 2;
SET ROLE regress_kridtech_user;
SELECT what, name FROM attempts WHERE refused(statement) NOT IN ('55P02', '42501');
-- nor write postgresql.auto.conf
ALTER SYSTEM SET kridtech.base_url = 'https://attacker.example';
RESET ROLE;
-- nothing stands in the catalog, where everyone could read it
SELECT setconfig FROM pg_db_role_setting WHERE setconfig::text LIKE '%kridtech%';

-- no setting holds a key
SELECT name FROM pg_settings WHERE name LIKE 'kridtech.%key' OR name LIKE 'kridtech.%secret%' OR name LIKE 'kridtech.%password%';

-- names under the prefix that do not exist: refused from 15 on, where a prefix can be reserved
SELECT CASE WHEN current_setting('server_version_num')::int < 150000 THEN '42602'
            ELSE refused('SET kridtech.api_key = ''secret''') END AS state;

-- base_url: https, or http to a loopback address, without credentials or a query
\set VERBOSITY default
ALTER SYSTEM SET kridtech.base_url = 'http://backend.kridtech.com';
ALTER SYSTEM SET kridtech.base_url = 'http://127.0.0.1.attacker.example';
ALTER SYSTEM SET kridtech.base_url = 'http://10.0.0.1';
ALTER SYSTEM SET kridtech.base_url = 'http://[::2]:80';
ALTER SYSTEM SET kridtech.base_url = 'ftp://127.0.0.1';
ALTER SYSTEM SET kridtech.base_url = 'file:///etc/passwd';
ALTER SYSTEM SET kridtech.base_url = 'https://user:secret@backend.kridtech.com';
ALTER SYSTEM SET kridtech.base_url = 'https://127.0.0.1:80@attacker.example';
ALTER SYSTEM SET kridtech.base_url = 'https://backend.kridtech.com/?x=1';
ALTER SYSTEM SET kridtech.base_url = 'https://backend.kridtech.com/#x';
ALTER SYSTEM SET kridtech.base_url = 'backend.kridtech.com';
ALTER SYSTEM SET kridtech.base_url = 'https://';
ALTER SYSTEM SET kridtech.base_url = '';
ALTER SYSTEM SET kridtech.base_url = 'https:///backend';
ALTER SYSTEM SET kridtech.base_url = 'https://back end';
ALTER SYSTEM SET kridtech.base_url = 'https://x\y';
ALTER SYSTEM SET kridtech.base_url = E'https://x\tattacker';
ALTER SYSTEM SET kridtech.base_url = 'https://größe.example';
-- account_id: nothing that could end a line, 256 bytes at most
ALTER SYSTEM SET kridtech.account_id = E'a\tb';
SELECT repeat('x', 257) AS long \gset
ALTER SYSTEM SET kridtech.account_id = :'long';
-- webhook_path: as a client sends it
ALTER SYSTEM SET kridtech.webhook_path = '/a b';
ALTER SYSTEM SET kridtech.webhook_path = '/a/../b';
-- databases: a list of identifiers, 32 at most
ALTER SYSTEM SET kridtech.databases = 'a,,b';
ALTER SYSTEM SET kridtech.databases = 'a b';
ALTER SYSTEM SET kridtech.databases = '"a';
SELECT 'a0' || string_agg(', a' || i, '') AS many FROM generate_series(1, 32) AS i \gset
ALTER SYSTEM SET kridtech.databases = :'many';
-- recording_hosts: names, domains of two labels, addresses
ALTER SYSTEM SET kridtech.recording_hosts = '*';
ALTER SYSTEM SET kridtech.recording_hosts = '.com';
ALTER SYSTEM SET kridtech.recording_hosts = 'https://storage.kridtech.com';
ALTER SYSTEM SET kridtech.recording_hosts = 'storage.kridtech.com,,x';
-- the time-outs: 100 ms to 10 min, with a unit; the server's own words differ between versions
\set VERBOSITY sqlstate
ALTER SYSTEM SET kridtech.connect_timeout = 0;
ALTER SYSTEM SET kridtech.connect_timeout = -1;
ALTER SYSTEM SET kridtech.request_timeout = '99ms';
ALTER SYSTEM SET kridtech.request_timeout = '11min';
ALTER SYSTEM SET kridtech.request_timeout = '30 bananas';
-- the dialer's numbers
ALTER SYSTEM SET kridtech.max_concurrent_requests = 0;
ALTER SYSTEM SET kridtech.max_concurrent_requests = 1025;
ALTER SYSTEM SET kridtech.calls_per_second = -0.5;
ALTER SYSTEM SET kridtech.calls_per_second = 'NaN';
ALTER SYSTEM SET kridtech.max_unknown = -1;
ALTER SYSTEM SET kridtech.max_queued_per_transaction = -1;
ALTER SYSTEM SET kridtech.settle_time = '99ms';
ALTER SYSTEM SET kridtech.sync_interval = '-1';
ALTER SYSTEM SET kridtech.webhook_grace = 0;
ALTER SYSTEM SET kridtech.retention = '-1d';
ALTER SYSTEM SET kridtech.probe_interval = '0';
ALTER SYSTEM SET kridtech.retry_limit = 0;
\set VERBOSITY default

DROP VIEW attempts;
DROP FUNCTION refused(text);
DROP ROLE regress_kridtech_user;
