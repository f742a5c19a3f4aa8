-- What every test here begins with: the extension, and functions that steer the simulator and the server.
--
-- The tests are not wrapped in one transaction: what a commit leaves behind is part of what is tested, and
-- each file has a database of its own. test/run gives the server kridtech.base_url (the simulator),
-- kridtech.account_id 'acct-1', its key file, and test.simulator, the simulator's ready line.
SET client_min_messages = warning;
SET search_path = public;
CREATE EXTENSION kridtech;
CREATE SCHEMA test;

-- What a shell command of the server's user prints. A failing command is an error.
CREATE FUNCTION test.shell(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    CREATE TEMP TABLE shell_output (n int GENERATED ALWAYS AS IDENTITY, line text) ON COMMIT DROP;
    EXECUTE format('COPY shell_output (line) FROM PROGRAM %L (FORMAT csv, DELIMITER E''\x01'', QUOTE E''\x02'', NULL E''\x03'')', command);
    SELECT string_agg(line, E'\n' ORDER BY n) INTO result FROM shell_output;
    DROP TABLE shell_output;
    RETURN coalesce(result, '');
END
$$;

CREATE FUNCTION test.quote_shell(word text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '''' || replace(word, '''', '''\''''') || ''''
$$;

-- Statements in a session of their own, each committed: what psql prints, errors and notices included.
CREATE FUNCTION test.session(statements text) RETURNS text LANGUAGE sql AS $$
    SELECT test.shell(format('printf %%s %s | %s/psql -XqAt -v VERBOSITY=verbose -h %s -p %s -U %s -d %s 2>&1', test.quote_shell(statements),
                             (SELECT setting FROM pg_config WHERE name = 'BINDIR'), current_setting('unix_socket_directories'),
                             current_setting('port'), session_user, current_database()))
$$;

-- The port of the simulator's nth listener: 0 plain, 1 TLS, 2 TLS that fails by an old version, 3 one that stalls, 4 one that is reset,
-- 5 TLS with another host's certificate.
CREATE FUNCTION test.port(n int) RETURNS text LANGUAGE sql AS $$
    SELECT current_setting('test.simulator')::jsonb -> 'listeners' -> n ->> 'port'
$$;

-- Tells the simulator: POST /sim/<path>.
CREATE FUNCTION test.simulator(path text, body jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT nullif(test.shell(format('printf %%s %s | curl -sS --fail -m 10 -X POST --data-binary @- %s', test.quote_shell(body::text),
                             test.quote_shell('http://127.0.0.1:' || test.port(0) || '/sim/' || path))), '')::jsonb
$$;

-- Asks it: GET /sim/<path>.
CREATE FUNCTION test.simulator_says(path text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT test.shell(format('curl -sS --fail -m 10 %s', test.quote_shell('http://127.0.0.1:' || test.port(0) || '/sim/' || path)))::jsonb
$$;

-- The next request to this endpoint is answered by this scenario.
CREATE FUNCTION test.next_answer(endpoint text, scenario jsonb) RETURNS void LANGUAGE sql AS $$
    SELECT test.simulator('scenarios', jsonb_build_object('endpoint', endpoint, 'times', 1) || scenario)
$$;

-- Sets a setting of the server and waits until it holds, for this session's next statement too.
-- shown is how SHOW prints it.
CREATE FUNCTION test.configure(name text, value text, shown text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.session(format('ALTER SYSTEM SET %s = %L; SELECT pg_reload_conf()', name, value));
    FOR i IN 1..200 LOOP
        IF test.session('SHOW ' || name) = coalesce(shown, value) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
    RAISE 'setting % did not become %', name, value;
END
$$;

-- Takes all of that back.
CREATE FUNCTION test.configure_as_before() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.session('ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()');
    FOR i IN 1..200 LOOP
        IF test.session('SELECT count(*) FROM pg_settings WHERE sourcefile LIKE ''%auto.conf''') = '0' THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
    RAISE 'the settings did not go back';
END
$$;

-- How a statement ends.
CREATE TYPE test.ending AS (state text, message text, detail text, hint text, context text);
CREATE FUNCTION test.ending_of(statement text) RETURNS test.ending LANGUAGE plpgsql AS $$
DECLARE
    e test.ending;
BEGIN
    EXECUTE statement;
    e.state := '00000';
    RETURN e;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS e.state = RETURNED_SQLSTATE, e.message = MESSAGE_TEXT, e.detail = PG_EXCEPTION_DETAIL,
        e.hint = PG_EXCEPTION_HINT, e.context = PG_EXCEPTION_CONTEXT;
    RETURN e;
END
$$;
CREATE FUNCTION test.state_of(statement text) RETURNS text LANGUAGE sql AS $$
    SELECT (test.ending_of(statement)).state
$$;

-- The same as another role.
CREATE FUNCTION test.state_for(role name, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text;
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    state := test.state_of(statement);
    RESET ROLE;
    RETURN state;
END
$$;

-- Waits until a query's one value is this.
CREATE FUNCTION test.await(query text, value text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    got text;
BEGIN
    FOR i IN 1..500 LOOP
        EXECUTE query INTO got;
        IF got = value THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
    RAISE '% did not become %: %', query, value, got;
END
$$;

-- A call of each endpoint.
CREATE FUNCTION test.request(endpoint text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE endpoint WHEN 'create-call' THEN 'SELECT kridtech_create_call(''+14155550123'')'
                         WHEN 'create-web-call' THEN 'SELECT kridtech_create_web_call()'
                         WHEN 'calls' THEN 'SELECT * FROM kridtech_calls()'
                         WHEN 'total' THEN 'SELECT kridtech_calls_total()' END
$$;

-- The ending of a request that is answered by a scenario. 'total' is the list's second function.
CREATE FUNCTION test.ending_with(request text, scenario jsonb) RETURNS test.ending LANGUAGE plpgsql AS $$
BEGIN
    PERFORM test.next_answer(CASE request WHEN 'total' THEN 'calls' ELSE request END, scenario);
    RETURN test.ending_of(test.request(request));
END
$$;
CREATE FUNCTION test.state_with(request text, scenario jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT (test.ending_with(request, scenario)).state
$$;

SELECT test.simulator('reset') \g /dev/null
