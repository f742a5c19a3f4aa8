"""The vendor's documented Flask receiver, made durable: one INSERT that a repeated webhook does not break,
answered after its commit. Each thread of gunicorn keeps a connection to the database of PGHOST and the like."""

import json
import threading

import psycopg2
from flask import Flask, request

app = Flask(__name__)
local = threading.local()

INSERT = """INSERT INTO alternatives.webhook_events
    (call_id, status, duration_ms, transcript, recording_url, dynamic_variables, raw)
  VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""


def cursor():
    if not hasattr(local, 'cursor'):
        connection = psycopg2.connect('')
        # One statement is one transaction: a COMMIT of its own would cost a round trip.
        connection.autocommit = True
        local.cursor = connection.cursor()
    return local.cursor


@app.route('/webhook', methods=['POST'])
def webhook():
    raw = request.get_data()
    data = request.get_json()
    cursor().execute(INSERT, (data.get('callId'), data.get('status'), data.get('durationMs'), data.get('transcript'),
                              data.get('recordingUrl'), json.dumps(data.get('dynamicVariables')), raw))
    return '', 200
