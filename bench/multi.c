/*
 * The alternative that draining is measured against: a bare libcurl multi loop that posts the same
 * create-calls over kept-alive connections and records nothing.
 *
 * multi URL COUNT CONCURRENT [CA-FILE]: prints nothing; the wall time is the figure.
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char body[] =
	"{\"accountId\":\"acct-1\",\"toNumber\":\"+14155550123\",\"dynamicVariables\":{\"name\":\"Ann\","
	"\"kridtech_ref\":\"0123456789abcdef0123456789abcdef\"}}";

static size_t
swallow(char *bytes, size_t size, size_t n, void *userp)
{
	(void) bytes;
	(void) userp;
	return size * n;
}

static CURL *
make_handle(const char *url, const char *ca_file, struct curl_slist *headers)
{
	CURL *easy = curl_easy_init();

	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, swallow);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	if (ca_file)
		curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
	return easy;
}

int
main(int argc, char **argv)
{
	long count = argc >= 4 ? atol(argv[2]) : 0;
	int concurrent = argc >= 4 ? atoi(argv[3]) : 0;
	const char *ca_file = argc == 5 ? argv[4] : NULL;
	struct curl_slist *headers = NULL;
	long begun = 0;
	long ended = 0;
	CURLM *multi;
	int running;
	int i;

	if (count < 1 || concurrent < 1)
		return 2;
	curl_global_init(CURL_GLOBAL_DEFAULT);
	multi = curl_multi_init();
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) concurrent);
	headers = curl_slist_append(headers, "x-api-key: sim-key");
	headers = curl_slist_append(headers, "Content-Type: application/json");
	for (i = 0; i < concurrent && begun < count; i++, begun++)
		curl_multi_add_handle(multi, make_handle(argv[1], ca_file, headers));
	while (ended < count)
	{
		CURLMsg *message;
		int left;

		curl_multi_perform(multi, &running);
		while ((message = curl_multi_info_read(multi, &left)) != NULL)
		{
			CURL *easy = message->easy_handle;

			if (message->data.result != CURLE_OK)
				return 1;
			ended++;
			curl_multi_remove_handle(multi, easy);
			if (begun < count)
			{
				curl_multi_add_handle(multi, easy);
				begun++;
			}
		}
		if (ended < count)
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	}
	return 0;
}
