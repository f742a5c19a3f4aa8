/*
 * The magic numbers: what +1555010 and four digits does. The one table; README's is printed from it.
 *
 * As with a payment provider's test cards, nobody has such a number. Codes that are not in the table make
 * an ordinary call.
 */
#include "simulator.h"

#include <stdio.h>
#include <string.h>

#define PREFIX "+1555010"
#define JSON_TYPE "application/json; charset=utf-8"
#define MB (1024 * 1024)

typedef struct Row
{
	int first;
	int last;
	const char *what;
	SimScenario scenario;
} Row;

static char deep[200001];
static char long_id[10001];

/* clang-format off */
#define FATE(code, f, text) \
	{code, code, text, {.fate = f, .applied = true}}
#define LATE(code, n, text) \
	{code, code, text, {.latency_ms = n, .applied = true}}
#define BODY(code, made, text, literal) \
	{code, code, text, {.fault = SIM_FAULT_BODY, .applied = made, .body = literal, .body_len = sizeof(literal) - 1}}
#define MOVED(code, text) \
	{code, code, text, {.fault = SIM_FAULT_REDIRECT, .status = code, .location = "https://redirect.invalid/api/create-call"}}
#define RETRY(code, number, value, text) \
	{code, code, text, {.fault = SIM_FAULT_STATUS, .status = number, .retry_after = value}}
#define RAW(code, text, literal) \
	{code, code, text, {.fault = SIM_FAULT_RAW, .applied = true, .body = literal, .body_len = sizeof(literal) - 1}}
#define ONCE(code, number, text) \
	{code, code, text, {.fault = SIM_FAULT_STATUS, .status = number, .times = 1}}
#define FAULT(code, text, ...) \
	{code, code, text, {__VA_ARGS__}}

static Row rows[] = {
	FATE(1, SIM_FATE_COMPLETED, "ordinary; always ends completed, whatever `fail_percent` says"),
	FATE(2, SIM_FATE_BUSY, "registered, then failed (busy, no answer)"),
	FATE(3, SIM_FATE_BROKEN, "registered, ongoing, then failed"),
	FATE(4, SIM_FATE_RINGS, "stays registered for ever"),
	FATE(5, SIM_FATE_TALKS, "stays ongoing for ever"),
	FAULT(6, "completed at once, its webhook sent before the answer (which takes 300 ms)",
		  .fate = SIM_FATE_AT_ONCE, .applied = true, .latency_ms = 300),
	FATE(7, SIM_FATE_UNHOOKED, "completed, but its webhook is never sent"),
	FATE(8, SIM_FATE_TWICE, "completed, its webhook is sent twice (the vendor says once)"),
	FATE(9, SIM_FATE_NULLS, "completed, every webhook field that may be null is null"),
	LATE(10, 1000, "the answer takes 1 s"),
	LATE(11, 5000, "the answer takes 5 s"),
	LATE(12, 15000, "the answer takes 15 s"),
	LATE(13, 60000, "the answer takes 60 s"),
	BODY(200, false, "200 and `\"success\":false`, no call", "{\"success\":false,\"error\":\"Agent is not configured\"}"),
	FAULT(201, "201 with the documented body", .status = 201, .applied = true),
	FAULT(202, "202 with the documented body", .status = 202, .applied = true),
	FAULT(204, "204, empty, call created", .fault = SIM_FAULT_BODY, .status = 204, .applied = true, .body = ""),
	FAULT(210, "200 and an HTML page, no call", .fault = SIM_FAULT_BODY, .content_type = "text/html",
		  .body = "<!DOCTYPE html><html><head><title>Maintenance</title></head><body>We are back soon.</body></html>"),
	BODY(211, true, "200 and an empty body, call created", ""),
	BODY(212, true, "200 and JSON that breaks off, call created", "{\"success\":true,\"callId\":\"call_abc"),
	BODY(213, true, "200 and `[]`, call created", "[]"),
	BODY(214, true, "200 and `null`, call created", "null"),
	BODY(215, true, "200, callId missing, call created", "{\"success\":true,\"callStatus\":\"registered\"}"),
	BODY(216, true, "200, callId a number, call created", "{\"success\":true,\"callId\":12,\"callStatus\":\"registered\"}"),
	BODY(217, true, "200, callId empty, call created", "{\"success\":true,\"callId\":\"\",\"callStatus\":\"registered\"}"),
	FAULT(218, "200, callId of 10,000 characters", .applied = true, .call_id = long_id),
	BODY(219, true, "200, callId but no `success`, call created", "{\"callId\":\"call_nosuccess\",\"callStatus\":\"registered\"}"),
	BODY(220, true, "200, callId and `\"success\":\"true\"`, call created",
		 "{\"success\":\"true\",\"callId\":\"call_textsuccess\",\"callStatus\":\"registered\"}"),
	BODY(221, true, "200, two different callIds, call created", "{\"success\":true,\"callId\":\"call_first\",\"callId\":\"call_second\"}"),
	FAULT(222, "200, always the same callId, `call_same`", .applied = true, .call_id = "call_same"),
	FAULT(223, "200 and JSON nested 100,000 deep, call created", .fault = SIM_FAULT_BODY, .applied = true, .body = deep),
	BODY(224, true, "200, callId with bytes ff fe, call created", "{\"success\":true,\"callId\":\"call_\xff\xfe\",\"callStatus\":\"registered\"}"),
	BODY(225, true, "200, callId with `\\u0000`, call created", "{\"success\":true,\"callId\":\"call_\\u0000x\",\"callStatus\":\"registered\"}"),
	BODY(226, true, "200, a BOM before the JSON, call created", "\xef\xbb\xbf{\"success\":true,\"callId\":\"call_bom\",\"callStatus\":\"registered\"}"),
	BODY(227, true, "200, `\"success\":false` and a callId, call created", "{\"success\":false,\"callId\":\"call_contradiction\"}"),
	BODY(228, true, "200, garbage after the JSON, call created", "{\"success\":true,\"callId\":\"call_tail\"} trailing"),
	BODY(229, true, "200, callId `null`, call created", "{\"success\":true,\"callId\":null}"),
	MOVED(301, "301 to another host"),
	MOVED(302, "302 to another host"),
	MOVED(303, "303 to another host"),
	MOVED(307, "307 to another host"),
	MOVED(308, "308 to another host"),
	RETRY(429, 429, "1", "429 with `Retry-After: 1`"),
	{400, 599, "that HTTP status, with a JSON error body, no call (429 and 5xx have variants below)",
	 {.fault = SIM_FAULT_STATUS}},
	FAULT(600, "RST after the request's body, no call", .fault = SIM_FAULT_RESET),
	FAULT(601, "RST after the request's body, call created", .fault = SIM_FAULT_RESET, .applied = true),
	FAULT(602, "RST in the middle of the answer, call created", .fault = SIM_FAULT_RESET, .applied = true, .when = SIM_MID_ANSWER),
	FAULT(603, "closed without an answer, no call", .fault = SIM_FAULT_DROP),
	FAULT(604, "closed without an answer, call created", .fault = SIM_FAULT_DROP, .applied = true),
	FAULT(605, "closed without an answer if the connection is re-used, no call; else ordinary",
		  .fault = SIM_FAULT_DROP, .only_reused = true),
	FAULT(606, "closed without an answer if the connection is re-used, call created; else ordinary",
		  .fault = SIM_FAULT_DROP, .only_reused = true, .applied = true),
	FAULT(607, "never answered, no call", .fault = SIM_FAULT_HANG),
	FAULT(608, "never answered, call created", .fault = SIM_FAULT_HANG, .applied = true),
	FAULT(609, "answer shorter than its Content-Length, call created", .fault = SIM_FAULT_TRUNCATE, .applied = true),
	FAULT(610, "answer dripped, 1 byte each 10 ms", .fault = SIM_FAULT_DRIP, .applied = true, .bytes = 1, .ms = 10),
	FAULT(611, "answer dripped, 1 byte a second", .fault = SIM_FAULT_DRIP, .applied = true, .bytes = 1, .ms = 1000),
	FAULT(612, "answer followed by 100 MB of blanks", .fault = SIM_FAULT_HUGE, .applied = true, .bytes = 100 * MB),
	FAULT(613, "answer followed by blanks without end", .fault = SIM_FAULT_HUGE, .applied = true, .bytes = -1),
	FAULT(614, "answer gzipped, asked or not", .fault = SIM_FAULT_GZIP_UNASKED, .applied = true),
	FAULT(615, "answer gzipped, 100 MB once unpacked", .fault = SIM_FAULT_GZIP_BOMB, .applied = true, .bytes = 100 * MB),
	RAW(616, "a status of 100 digits, call created",
		"HTTP/1.1 2000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 OK\r\n"
		"Content-Length: 2\r\n\r\n{}"),
	RAW(617, "bytes that are no HTTP, call created", "\x16\x03\x01 not http \x00\xff\r\n\r\n"),
	RAW(618, "a broken chunked body, call created",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{\"success\":true}\r\n0\r\n\r\n"),
	RAW(619, "two different Content-Lengths, call created",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 41\r\n\r\n{}"),
	RAW(620, "an answer's beginning, then closed, call created", "HTTP/1.1 200 OK\r\nContent-Type: appl"),
	FAULT(621, "500, although the call was created", .fault = SIM_FAULT_STATUS, .status = 500, .applied = true),
	FAULT(622, "503, although the call was created", .fault = SIM_FAULT_STATUS, .status = 503, .applied = true),
	RAW(623, "an HTTP/0.9 answer: a body only, call created", "{\"success\":true,\"callId\":\"call_nine\",\"callStatus\":\"registered\"}"),
	RAW(624, "a 100 Continue nobody asked for, then the answer, call created",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 41\r\n"
		"Connection: close\r\n\r\n{\"success\":true,\"callId\":\"call_after100\"}"),
	FAULT(625, "100 MB of blanks declared by Content-Length, sent 0 bytes, then never more", .fault = SIM_FAULT_RAW,
		  .applied = true, .when = SIM_MID_ANSWER,
		  .body = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 104857600\r\n\r\n"),
	RAW(626, "an answer framed by the connection's end, call created",
		"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"success\":true,\"callId\":\"call_unframed\","
		"\"callStatus\":\"registered\"}"),
	RETRY(701, 429, NULL, "429 without Retry-After"),
	RETRY(702, 429, "-5", "429 with `Retry-After: -5`"),
	RETRY(703, 429, "99999999999999999999", "429 with a huge Retry-After"),
	RETRY(704, 429, "date+2", "429 with an HTTP date, 2 s ahead"),
	RETRY(705, 429, "soon", "429 with `Retry-After: soon`"),
	RETRY(706, 429, "date-3600", "429 with an HTTP date of an hour ago"),
	RETRY(707, 503, "1", "503 with `Retry-After: 1`"),
	RETRY(708, 429, "0", "429 with `Retry-After: 0`"),
	ONCE(801, 429, "the first time 429 without Retry-After, then ordinary"),
	ONCE(802, 402, "the first time 402, then ordinary"),
	ONCE(803, 503, "the first time 503, then ordinary"),
	ONCE(804, 401, "the first time 401, then ordinary"),
};
/* clang-format on */

#define NROWS (sizeof(rows) / sizeof(rows[0]))

static void
fill(void)
{
	if (long_id[0] != '\0')
		return;
	memset(deep, '[', sizeof(deep) / 2);
	memset(deep + sizeof(deep) / 2, ']', sizeof(deep) / 2);
	memset(long_id, 'x', sizeof(long_id) - 1);
	memcpy(long_id, "call_", 5);
}

SimScenario *
sim_number_find(const char *to_number)
{
	const char *digits = to_number + strlen(PREFIX);
	int code = 0;

	if (strncmp(to_number, PREFIX, strlen(PREFIX)) != 0 || strlen(digits) != 4 ||
	    strspn(digits, "0123456789") != 4)
		return NULL;
	for (int i = 0; i < 4; i++)
		code = code * 10 + digits[i] - '0';
	fill();
	for (size_t i = 0; i < NROWS; i++)
	{
		static char name[32];
		SimScenario *scenario = &rows[i].scenario;

		if (code < rows[i].first || code > rows[i].last)
			continue;
		snprintf(name, sizeof(name), "number %04d", code);
		scenario->name = name;
		if (rows[i].first != rows[i].last)
			scenario->status = code;
		return scenario;
	}
	return NULL;
}

void
sim_number_reset(void)
{
	for (size_t i = 0; i < NROWS; i++)
		rows[i].scenario.used = 0;
}

void
sim_number_help(bool markdown)
{
	if (markdown)
		puts("| toNumber | what happens |\n| --- | --- |");
	for (size_t i = 0; i < NROWS; i++)
	{
		char last[8] = "";

		if (rows[i].last != rows[i].first)
			snprintf(last, sizeof(last), "-%04d", rows[i].last);
		printf(markdown ? "| `%s%04d%s` | %s |\n" : "%s%04d%-5s  %s\n", PREFIX, rows[i].first, last,
		       rows[i].what);
	}
}
