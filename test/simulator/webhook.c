/*
 * Sends the webhooks: each once, never again, in a thread of its own with libcurl's multi interface.
 *
 * Independent of the client under test on purpose. The body goes out through a read function without a
 * seek function, because libcurl would send it a second time by itself when a kept-alive connection
 * dies; the vendor sends once. The loop's thread only appends to the queue, under the mutex.
 */
#include "simulator.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_IN_FLIGHT 256

typedef struct Job
{
	char *call_id;
	SimText body;
	size_t sent;
	char *url;
	bool keepalive;
	CURL *easy;
	struct Job *next;
} Job;

typedef struct Result
{
	char *call_id;
	int status;
	CURLcode code;
	int64_t ms;
	struct Result *next;
} Result;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Job *queue_head;
static Job **queue_tail = &queue_head;
static Result *results_head;
static Result **results_tail = &results_head;
static bool stopping;

static pthread_t thread;
static bool running;
static CURLM *multi;
static struct curl_slist *headers;
static char *ca_file;
static long timeout_ms;
static CURL *spare[MAX_IN_FLIGHT];
static int nspare;
static Job *flying[MAX_IN_FLIGHT];
static int nflying;

/* Used by the loop's thread alone. */
static char *target;
static bool keepalive = true;

static size_t
read_body(char *out, size_t size, size_t n, void *arg)
{
	Job *job = arg;
	size_t len = job->body.len - job->sent;

	if (len > size * n)
		len = size * n;
	memcpy(out, job->body.data + job->sent, len);
	job->sent += len;
	return len;
}

static size_t
discard(char *data, size_t size, size_t n, void *arg)
{
	(void) data;
	(void) arg;
	return size * n;
}

static void
job_free(Job *job)
{
	sim_text_free(&job->body);
	free(job->call_id);
	free(job->url);
	free(job);
}

static void
job_start(Job *job)
{
	CURL *easy = nspare > 0 ? spare[--nspare] : curl_easy_init();

	job->easy = easy;
	curl_easy_reset(easy);
	curl_easy_setopt(easy, CURLOPT_URL, job->url);
	curl_easy_setopt(easy, CURLOPT_POST, 1L);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) job->body.len);
	curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_body);
	curl_easy_setopt(easy, CURLOPT_READDATA, job);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_PRIVATE, job);
	if (ca_file != NULL)
		curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
	if (!job->keepalive)
	{
		curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
		curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
	}
	curl_multi_add_handle(multi, easy);
	flying[nflying++] = job;
}

static void
job_end(Job *job, CURLcode code)
{
	Result *result = sim_alloc(sizeof(*result));
	curl_off_t us = 0;
	long status = 0;

	curl_easy_getinfo(job->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(job->easy, CURLINFO_TOTAL_TIME_T, &us);
	curl_multi_remove_handle(multi, job->easy);
	spare[nspare++] = job->easy;
	for (int i = 0; i < nflying; i++)
		if (flying[i] == job)
			flying[i] = flying[--nflying];
	result->call_id = sim_strdup(job->call_id);
	result->status = (int) status;
	result->code = code;
	result->ms = us / 1000;
	pthread_mutex_lock(&mutex);
	*results_tail = result;
	results_tail = &result->next;
	pthread_mutex_unlock(&mutex);
	job_free(job);
}

static bool
take_jobs(void)
{
	bool go_on;

	pthread_mutex_lock(&mutex);
	while (queue_head != NULL && nflying < MAX_IN_FLIGHT)
	{
		Job *job = queue_head;

		queue_head = job->next;
		if (queue_head == NULL)
			queue_tail = &queue_head;
		job_start(job);
	}
	go_on = !stopping;
	pthread_mutex_unlock(&mutex);
	return go_on;
}

static void *
send_all(void *arg)
{
	while (take_jobs())
	{
		struct CURLMsg *msg;
		int left;
		int ended = 0;

		curl_multi_perform(multi, &left);
		while ((msg = curl_multi_info_read(multi, &left)) != NULL)
		{
			Job *job;
			CURLcode code = msg->data.result;

			curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **) &job);
			job_end(job, code);
			ended++;
		}
		if (ended == 0)
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	}
	return arg;
}

bool
sim_webhook_start(const char *ca, long timeout)
{
	ca_file = sim_strdup(ca);
	timeout_ms = timeout;
	headers = curl_slist_append(NULL, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Accept:");
	headers = curl_slist_append(headers, "Expect:");
	multi = curl_multi_init();
	if (multi == NULL || headers == NULL)
		return false;
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) MAX_IN_FLIGHT);
	running = pthread_create(&thread, NULL, send_all, NULL) == 0;
	return running;
}

static void
queue_clear(void)
{
	while (queue_head != NULL)
	{
		Job *job = queue_head;

		queue_head = job->next;
		job_free(job);
	}
	queue_tail = &queue_head;
}

void
sim_webhook_stop(void)
{
	if (!running)
		return;
	pthread_mutex_lock(&mutex);
	stopping = true;
	pthread_mutex_unlock(&mutex);
	curl_multi_wakeup(multi);
	pthread_join(thread, NULL);
	while (nflying > 0)
		job_end(flying[0], CURLE_ABORTED_BY_CALLBACK);
	while (nspare > 0)
		curl_easy_cleanup(spare[--nspare]);
	queue_clear();
	sim_webhook_reset();
	curl_multi_cleanup(multi);
	curl_slist_free_all(headers);
	free(ca_file);
	free(target);
}

bool
sim_webhook_set_url(const char *url)
{
	static const char *const fit[] = {"https://", "http://127.",
	                                  "http://localhost:", "http://[::1]"};
	bool good = url == NULL;

	for (size_t i = 0; i < sizeof(fit) / sizeof(fit[0]) && !good; i++)
		good = strncmp(url, fit[i], strlen(fit[i])) == 0;
	if (!good)
		return false;
	free(target);
	target = sim_strdup(url);
	return true;
}

const char *
sim_webhook_url(void)
{
	return target;
}

void
sim_webhook_set_keepalive(bool on)
{
	keepalive = on;
}

void
sim_webhook_send(const char *call_id, SimText *body)
{
	Job *job;
	bool was_empty;

	if (target == NULL)
	{
		sim_text_free(body);
		return;
	}
	job = sim_alloc(sizeof(*job));
	job->call_id = sim_strdup(call_id);
	job->body = *body;
	*body = (SimText){0};
	job->url = sim_strdup(target);
	job->keepalive = keepalive;
	pthread_mutex_lock(&mutex);
	was_empty = queue_head == NULL;
	*queue_tail = job;
	queue_tail = &job->next;
	pthread_mutex_unlock(&mutex);
	if (was_empty)
		curl_multi_wakeup(multi);
}

void
sim_webhook_results(SimText *out, const char *call_id)
{
	const char *separator = "";

	sim_text_puts(out, "[");
	pthread_mutex_lock(&mutex);
	for (const Result *result = results_head; result != NULL; result = result->next)
	{
		if (call_id != NULL && strcmp(call_id, result->call_id) != 0)
			continue;
		sim_text_puts(out, separator);
		sim_text_puts(out, "{\"callId\":");
		sim_text_put_string(out, result->call_id, strlen(result->call_id));
		sim_text_putf(out, ",\"status\":%d,\"curlCode\":%d,\"error\":", result->status,
		              result->code);
		if (result->code == CURLE_OK)
			sim_text_puts(out, "null");
		else
			sim_text_putf(out, "\"%s\"", curl_easy_strerror(result->code));
		sim_text_putf(out, ",\"ms\":%lld}", (long long) result->ms);
		separator = ",";
	}
	pthread_mutex_unlock(&mutex);
	sim_text_puts(out, "]");
}

void
sim_webhook_reset(void)
{
	pthread_mutex_lock(&mutex);
	while (results_head != NULL)
	{
		Result *result = results_head;

		results_head = result->next;
		free(result->call_id);
		free(result);
	}
	results_tail = &results_head;
	pthread_mutex_unlock(&mutex);
}
