/*
 * How fast the plain-C floor reads what a webhook brings. From this directory:
 *   cc -O2 -o floor0 floor0.c ../src/buf.c ../src/repair.c ../src/transcript.c && ./floor0
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../src/buf.h"
#include "../src/repair.h"
#include "../src/transcript.h"

#define SIZE (16 * 1024 * 1024)
#define ROUNDS 12

typedef void (*Work)(const char *text, size_t len);

static KtBuf out;

static void
turns(const char *text, size_t len)
{
	KtTurnCursor cursor;
	KtTurn turn;
	volatile size_t n = 0;

	kt_transcript_begin(&cursor, text, len);
	while (kt_transcript_next(&cursor, &turn))
		n += turn.utterance_len;
}

static void
json(const char *text, size_t len)
{
	KtRepair report;

	kt_buf_reset(&out, SIZE_MAX);
	kt_repair_json(text, len, &out, &report);
}

static void
plain(const char *text, size_t len)
{
	KtRepair report;

	kt_buf_reset(&out, SIZE_MAX);
	kt_repair_text(text, len, &out, &report);
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

/* Fills a block with the sample over and over behind one first byte; reports the best round. */
static void
measure(const char *name, Work work, char first, const char *sample)
{
	static char text[SIZE];
	size_t n = strlen(sample);
	double best = 1e9;
	size_t i;

	for (i = 0; i < SIZE; i++)
		text[i] = sample[i % n];
	text[0] = first;
	for (i = 0; i < ROUNDS; i++)
	{
		double start = now();

		work(text, SIZE);
		best = now() - start < best ? now() - start : best;
	}
	printf("%-34s %7.0f MB/s\n", name, SIZE / best / 1e6);
}

int
main(void)
{
	static const char talk[] = "Agent: Good morning, this is the practice of Dr. Maier, how can I "
							   "help you today?\nUser: I would like to move my appointment.\n";

	kt_buf_init(&out, 3 * (size_t) SIZE);
	measure("transcript, ordinary lines", turns, ' ', talk);
	measure("transcript, one long line", turns, ' ', "word after word ");
	measure("transcript, \"a: b\" lines", turns, ' ', "a: b\n");
	measure("transcript, lone CRs", turns, ' ', "a: b\r");
	measure("repair JSON, ASCII transcript", json, '"',
	        "Agent: Good morning, how can I help?\\nUser: ");
	measure("repair JSON, one ASCII string", json, '"', "abcdefgh ");
	measure("repair JSON, small objects", json, ' ',
	        "{\"callId\":\"c123\",\"durationMs\":94000},\n");
	measure("repair JSON, German", json, ' ', "\"Grüße aus München, schöne Aussicht heute\",");
	measure("repair JSON, Chinese", json, ' ', "\"你好今天天气很好我想预约明天\",");
	measure("repair JSON, \\u escapes", json, ' ', "\"\\u00e4\\u4f60\\ud83d\\ude00\",");
	measure("repair text, ASCII", plain, ' ', "abcdefgh ");
	kt_buf_free(&out);
	return 0;
}
