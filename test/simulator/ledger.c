/*
 * The ledger: one JSON line for each create-call and create-web-call that arrived, the oracle of K.
 *
 * A line is handed to the kernel with write(2) before the answer goes out, so it outlives a kill -9 of the
 * simulator; a thread of its own brings it to the disk while the loop goes on, so the loop never waits for
 * a disk. A line that cannot be written ends the program: an oracle with gaps is worse than none.
 */
#include "simulator.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef struct Count
{
	char *to_number;
	int64_t arrived; /* whole */
	int64_t applied;
} Count;

static int fd = -1;
static off_t first_byte; /* of what is shown; moved by a reset */
static int64_t seq;
static SimHash counts;

static pthread_t thread;
static bool syncing;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t written = PTHREAD_COND_INITIALIZER;
static bool dirty;
static bool stopping;

static void *
sync_always(void *arg)
{
	const struct timespec breath = {.tv_nsec = 20 * 1000 * 1000};

	pthread_mutex_lock(&mutex);
	while (!stopping)
	{
		if (!dirty)
		{
			pthread_cond_wait(&written, &mutex);
			continue;
		}
		dirty = false;
		pthread_mutex_unlock(&mutex);
		fdatasync(fd);
		nanosleep(&breath, NULL);
		pthread_mutex_lock(&mutex);
	}
	pthread_mutex_unlock(&mutex);
	return arg;
}

static void
count_one(const char *to_number, bool applied)
{
	Count *count = sim_hash_get(&counts, to_number);

	if (count == NULL)
	{
		count = sim_alloc(sizeof(*count));
		count->to_number = sim_strdup(to_number);
		sim_hash_put(&counts, count->to_number, count);
	}
	count->arrived++;
	if (applied)
		count->applied++;
}

static void
read_from(SimText *out, off_t offset)
{
	char chunk[65536];
	ssize_t got;

	while ((got = pread(fd, chunk, sizeof(chunk), offset)) > 0)
	{
		sim_text_put(out, chunk, (size_t) got);
		offset += got;
	}
}

/* Takes over what an earlier run left in the file. A last line cut off by a crash of the machine is skipped. */
static void
recall(void)
{
	SimText text = {0};
	char *line;
	char *end;

	read_from(&text, 0);
	for (line = text.data; line != NULL && (end = strchr(line, '\n')) != NULL; line = end + 1)
	{
		json_t *entry = json_loadb(line, (size_t) (end - line), JSON_ALLOW_NUL, NULL);
		const char *to_number = json_string_value(json_object_get(entry, "toNumber"));

		if (entry != NULL)
			seq = json_integer_value(json_object_get(entry, "seq"));
		if (to_number != NULL && json_is_true(json_object_get(entry, "whole")))
			count_one(to_number, json_is_true(json_object_get(entry, "applied")));
		json_decref(entry);
	}
	sim_text_free(&text);
}

bool
sim_ledger_open(const char *file)
{
	if (file == NULL)
	{
		FILE *temporary = tmpfile();

		fd = temporary ? dup(fileno(temporary)) : -1;
		if (temporary != NULL)
			fclose(temporary);
		return fd >= 0;
	}
	fd = open(file, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	recall();
	syncing = pthread_create(&thread, NULL, sync_always, NULL) == 0;
	return syncing;
}

bool
sim_ledger_sync(void)
{
	return fsync(fd) == 0;
}

static void
count_free(void *value)
{
	Count *count = value;

	free(count->to_number);
	free(count);
}

void
sim_ledger_close(void)
{
	if (syncing)
	{
		pthread_mutex_lock(&mutex);
		stopping = true;
		pthread_cond_signal(&written);
		pthread_mutex_unlock(&mutex);
		pthread_join(thread, NULL);
		sim_ledger_sync();
	}
	sim_hash_clear(&counts, count_free);
	close(fd);
}

typedef struct HeaderWriter
{
	SimText *line;
	SimKeyState key_state;
	const char *separator;
} HeaderWriter;

static enum MHD_Result
put_header(void *arg, enum MHD_ValueKind kind, const char *name, const char *value)
{
	static const char *const marks[] = {"absent", "invalid", "valid"};
	HeaderWriter *writer = arg;

	(void) kind;
	if (strcasecmp(name, "x-api-key") == 0)
		value = marks[writer->key_state];
	sim_text_puts(writer->line, writer->separator);
	sim_text_puts(writer->line, "[");
	sim_text_put_string(writer->line, name, strlen(name));
	sim_text_puts(writer->line, ",");
	sim_text_put_string(writer->line, value ? value : "", value ? strlen(value) : 0);
	sim_text_puts(writer->line, "]");
	writer->separator = ",";
	return MHD_YES;
}

static void
put_time(SimText *line)
{
	static time_t second;
	static char iso[24];
	struct timeval now;

	gettimeofday(&now, NULL);
	if (now.tv_sec != second || iso[0] == '\0')
	{
		second = now.tv_sec;
		sim_time_iso(iso, second);
	}
	sim_text_putf(line, "\"time\":\"%.19s.%06ldZ\",\"monotonicUs\":%lld", iso, (long) now.tv_usec,
	              (long long) sim_now());
}

static void
put_line(SimText *line, const SimRequest *request, const SimLedgerEntry *entry)
{
	HeaderWriter writer = {line, request->key_state, ""};

	sim_text_putf(line, "{\"seq\":%lld,", (long long) ++seq);
	put_time(line);
	sim_text_putf(line, ",\"endpoint\":\"%s\",\"whole\":%s,\"toNumber\":",
	              sim_endpoint_names[request->endpoint], request->whole ? "true" : "false");
	sim_text_put_json(line, entry->to_number);
	sim_text_puts(line, ",\"accountId\":");
	sim_text_put_json(line, entry->account);
	sim_text_puts(line, ",\"dynamicVariables\":");
	sim_text_put_json(line, entry->variables);
	sim_text_puts(line, ",\"callId\":");
	if (entry->call_id != NULL)
		sim_text_put_string(line, entry->call_id, strlen(entry->call_id));
	else
		sim_text_puts(line, "null");
	sim_text_putf(line, ",\"applied\":%s,\"scenario\":", entry->applied ? "true" : "false");
	if (entry->scenario != NULL)
		sim_text_put_string(line, entry->scenario, strlen(entry->scenario));
	else
		sim_text_puts(line, "null");
	sim_text_puts(line, ",\"status\":");
	if (entry->status > 0)
		sim_text_putf(line, "%d", entry->status);
	else
		sim_text_puts(line, "null");
	sim_text_putf(line, ",\"connection\":%llu,\"request\":%llu,\"peerPort\":%d,\"headers\":[",
	              (unsigned long long) request->conn->number, (unsigned long long) request->number,
	              request->conn->peer_port);
	MHD_get_connection_values(request->mhd, MHD_HEADER_KIND, put_header, &writer);
	sim_text_puts(line, "]}\n");
}

static void
write_all(const char *data, size_t len)
{
	while (len > 0)
	{
		ssize_t done = write(fd, data, len);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
		{
			fprintf(stderr, "kridtech-simulator: cannot write the ledger: %s\n", strerror(errno));
			_exit(1);
		}
		data += done;
		len -= (size_t) done;
	}
}

void
sim_ledger_record(SimRequest *request, const SimLedgerEntry *entry)
{
	static SimText line;

	request->recorded = true;
	line.len = 0;
	put_line(&line, request, entry);
	if (!syncing)
		lseek(fd, 0, SEEK_END);
	write_all(line.data, line.len);
	if (request->whole && request->endpoint == SIM_CREATE_CALL && json_is_string(entry->to_number))
		count_one(json_string_value(entry->to_number), entry->applied);
	if (!syncing)
		return;
	pthread_mutex_lock(&mutex);
	if (!dirty)
		pthread_cond_signal(&written);
	dirty = true;
	pthread_mutex_unlock(&mutex);
}

static bool
line_has_number(const char *line, size_t len, const SimText *wanted)
{
	static const char field[] = "\"toNumber\":";
	const char *at = memmem(line, len, field, sizeof(field) - 1);

	if (at == NULL)
		return false;
	at += sizeof(field) - 1;
	return (size_t) (line + len - at) > wanted->len && memcmp(at, wanted->data, wanted->len) == 0 &&
	       at[wanted->len] == ',';
}

/* A JSON array of the entries with seq above since, of one number if to_number is not NULL. */
void
sim_ledger_read(SimText *out, const char *to_number, int64_t since)
{
	SimText text = {0};
	SimText wanted = {0};
	const char *separator = "";
	char *end;

	if (to_number != NULL)
		sim_text_put_string(&wanted, to_number, strlen(to_number));
	read_from(&text, first_byte);
	sim_text_puts(out, "[");
	for (char *line = text.data; line != NULL && (end = strchr(line, '\n')) != NULL; line = end + 1)
	{
		size_t len = (size_t) (end - line);

		if (strtoll(line + strlen("{\"seq\":"), NULL, 10) <= since)
			continue;
		if (to_number != NULL && !line_has_number(line, len, &wanted))
			continue;
		sim_text_puts(out, separator);
		sim_text_put(out, line, len);
		separator = ",\n";
	}
	sim_text_puts(out, "]");
	sim_text_free(&text);
	sim_text_free(&wanted);
}

void
sim_ledger_count(SimText *out, const char *to_number)
{
	const Count *count = sim_hash_get(&counts, to_number);

	sim_text_puts(out, "{\"toNumber\":");
	sim_text_put_string(out, to_number, strlen(to_number));
	sim_text_putf(out, ",\"k\":%lld,\"applied\":%lld}", (long long) (count ? count->arrived : 0),
	              (long long) (count ? count->applied : 0));
}

/* The file is append-only and stays; what came before is no longer shown nor counted. */
void
sim_ledger_reset(void)
{
	first_byte = lseek(fd, 0, SEEK_END);
	sim_hash_clear(&counts, count_free);
}
