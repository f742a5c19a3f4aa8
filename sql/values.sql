-- The pure functions on what a webhook brings.
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
SET client_min_messages = warning;
CREATE EXTENSION kridtech;

-- kridtech_variables: the array of {variable, value} as one object
SELECT input, kridtech_variables(input::jsonb)
  FROM (VALUES
    -- the documented form
    (1, '[{"variable": "first_name", "value": "James"}, {"variable": "budget", "value": "$15,000"}]'),
    (2, '[]'),
    -- values of every type stay what they are
    (3, '[{"variable": "a", "value": 1.50}, {"variable": "b", "value": null}, {"variable": "c", "value": true}]'),
    (4, '[{"variable": "a", "value": [1, {"b": []}]}, {"variable": "c", "value": {"variable": "x", "value": 1}}]'),
    (5, '[{"variable": "a", "value": {}}, {"variable": "b", "value": []}, {"variable": "c", "value": ""}]'),
    -- no value is null
    (6, '[{"variable": "a"}]'),
    -- more members than the two change nothing
    (7, '[{"variable": "a", "value": 1, "type": "string", "name": "b"}]'),
    -- of one name the last counts
    (8, '[{"variable": "a", "value": 1}, {"variable": "b", "value": 2}, {"variable": "a", "value": 3}]'),
    (9, '[{"variable": "a", "value": 1}, {"variable": "a"}]'),
    -- elements of another shape are passed over
    (10, '[null, 1, "a", true, [], {}, {"value": 1}, {"variable": "kept", "value": 2}]'),
    (11, '[{"variable": 1, "value": 1}, {"variable": null, "value": 1}, {"variable": ["a"], "value": 1}, {"variable": {}, "value": 1}]'),
    (12, '[{"Variable": "a", "value": 1}, {"variable ": "b", "value": 1}]'),
    (13, '[[{"variable": "a", "value": 1}]]'),
    -- any string is a name
    (14, '[{"variable": "", "value": "empty"}, {"variable": "größe 🙂", "value": "ü"}, {"variable": "a\"b\\c", "value": "\n"}]'),
    -- an object is what it is
    (15, '{"first_name": "James", "variable": "x"}'),
    (16, '{}'),
    -- anything else is nothing
    (17, 'null'), (18, '"text"'), (19, '12'), (20, 'true')
  ) AS t(n, input) ORDER BY n;
SELECT kridtech_variables(NULL);
-- a thousand of them, and one that is large
SELECT (SELECT count(*) FROM jsonb_object_keys(kridtech_variables(v)))
  FROM (SELECT jsonb_agg(jsonb_build_object('variable', 'v' || i % 900, 'value', i)) AS v FROM generate_series(1, 1000) i) x;
SELECT length(kridtech_variables(jsonb_build_array(jsonb_build_object('variable', 'a', 'value', repeat('x', 1000000)))) ->> 'a');

-- kridtech_transcript_turns: who said what
-- the documented form
SELECT * FROM kridtech_transcript_turns(E'Agent: Hi, this is Sarah from Acme...\nUser: Hey, yes I was expecting your call...');
-- nothing to split
SELECT * FROM kridtech_transcript_turns('');
SELECT * FROM kridtech_transcript_turns(E' \n\t\r\n ');
SELECT * FROM kridtech_transcript_turns(NULL);

-- each row one transcript; a turn as: number <speaker> utterance
CREATE FUNCTION turns(transcript text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(turn || ' ' || coalesce('<' || speaker || '>', '-') || ' ' || to_json(utterance), ' / ' ORDER BY turn)
      FROM kridtech_transcript_turns(transcript)
$$;
SELECT about, turns(transcript) FROM (VALUES
    (1, 'no label at all: one turn without a speaker', E'hello there\nand more'),
    (2, 'words before the first label', E'(beep)\n\nAgent: hi'),
    (3, 'white space before the first label is no turn', E'\n \nAgent: hi'),
    (4, 'lines without a label belong to the turn before', E'Agent: one\ntwo\n\nthree\nUser: four'),
    (5, 'CR LF and lone CR end lines as LF does', E'Agent: one\r\ntwo\rthree\r\nUser: four\rAgent: five'),
    (6, 'a label alone says nothing', E'Agent:\nUser: yes'),
    (7, 'a label at the end of the text', 'Agent:'),
    (8, 'a label whose words follow on the next line', E'Agent:\nhello\nUser: hi'),
    (9, 'the same speaker twice is two turns', E'User: a\nUser: b'),
    (10, 'colon without white space behind is no label', E'Agent: see\nhttp://example.org\n10:30 it is\nC:\\dir'),
    (11, 'white space is trimmed at both ends', E'  Agent  :   hi \t\nUser:\tyes'),
    (12, 'labels in other scripts, and the full-width colon', E'Ägent: grüß Gott\nПользователь: да\n客户：你好\nAgent：hi'),
    (13, 'up to three words are a label, four are not', E'Dr. Anna Maier: yes\nthis is no label: no'),
    (14, 'punctuation that names have', E'[Agent]: a\n(User 2): b\nO''Neil-Smith_3: c\nA&B #1/2: d'),
    (15, 'punctuation that sentences have', E'Agent: a\nWell, then: b\nWhat?: c\n"Quoted": d\n*: e\n- item: f'),
    (16, 'no name before the colon', E'Agent: a\n: b\n  : c'),
    (17, 'a byte order mark is not part of the first label', E'\uFEFFAgent: a'),
    (18, 'emoji and combining characters stay', E'Agent: 👍🏽 e\u0301\nUser 🙂: ok'),
    (19, 'a label is up to 64 bytes', repeat('a', 64) || ': yes' || E'\n' || repeat('b', 65) || ': no'),
    (20, 'and 64 bytes of other characters', repeat('ü', 32) || ': yes' || E'\n' || repeat('ü', 33) || ': no'),
    (21, 'colons in what is said', 'Agent: it costs: 5: 6'),
    (22, 'a tab within the name is no label', E'Agent: a\nUs\ter: b'),
    (23, 'form feed and vertical tab are white space', E'Agent:\fhi\x0b\nUser: x'),
    (24, 'backslash-n is text, not a line', 'Agent: one\nUser: two'),
    (25, 'digits alone can be a label', E'1: a\n2: b')
  ) AS t(n, about, transcript) ORDER BY n;

-- long ones: a turn a line, lone carriage returns, and one line without end
SELECT count(*), max(turn), min(speaker), max(speaker)
  FROM kridtech_transcript_turns((SELECT string_agg(CASE i % 2 WHEN 0 THEN 'Agent: ' ELSE 'User: ' END || i, E'\n' ORDER BY i)
                                    FROM generate_series(1, 20000) i));
SELECT count(*), sum(length(utterance)) FROM kridtech_transcript_turns('Agent: x' || repeat(E'\r', 1000000) || 'y');
SELECT count(*), sum(length(utterance)) FROM kridtech_transcript_turns(repeat('word ', 400000));
-- only as many rows as are asked for
SELECT turn FROM kridtech_transcript_turns(E'A: 1\nB: 2\nC: 3') LIMIT 2;
-- usable where only immutable and parallel safe functions are
CREATE TABLE transcripts (t text, v jsonb);
CREATE INDEX ON transcripts (kridtech_variables(v));
INSERT INTO transcripts SELECT E'Agent: a\nUser: b', '[{"variable": "a", "value": 1}]' FROM generate_series(1, 3);
SELECT count(*) FROM transcripts, LATERAL kridtech_transcript_turns(t) WHERE kridtech_variables(v) @> '{"a": 1}';
DROP TABLE transcripts;
DROP FUNCTION turns(text);
DROP EXTENSION kridtech;
