// The vendor's documented Express receiver, made durable: one INSERT that a repeated webhook does not
// break, answered after its commit. POOL connections (20) to the database of PGHOST and the like, WORKERS
// processes (1). Prints the port once it listens.
const cluster = require('cluster');
const express = require('express');
const { Pool } = require('pg');

const insert = `INSERT INTO alternatives.webhook_events
    (call_id, status, duration_ms, transcript, recording_url, dynamic_variables, raw)
  VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`;

function serve() {
  const pool = new Pool({ max: Number(process.env.POOL || 20) });
  const app = express();
  app.disable('x-powered-by');
  app.use(express.json({ limit: '16mb', verify: (req, res, bytes) => { req.raw = bytes; } }));

  app.post('/webhook', async (req, res, next) => {
    const { callId, status, durationMs, transcript, recordingUrl, dynamicVariables } = req.body;
    try {
      // A name makes it a prepared statement.
      await pool.query({
        name: 'insert',
        text: insert,
        values: [callId, status, durationMs, transcript, recordingUrl, JSON.stringify(dynamicVariables), req.raw],
      });
      res.sendStatus(200);
    } catch (error) {
      next(error);
    }
  });

  const server = app.listen(Number(process.env.PORT || 0), '127.0.0.1', 4096, () => {
    if (cluster.isPrimary || cluster.worker.id === 1) {
      console.log(server.address().port);
    }
  });
  // A closed connection between two webhooks would be a lost webhook.
  server.keepAliveTimeout = 120000;
}

const workers = Number(process.env.WORKERS || 1);
if (workers > 1 && cluster.isPrimary) {
  for (let i = 0; i < workers; i++) {
    cluster.fork();
  }
} else {
  serve();
}
