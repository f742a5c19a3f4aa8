/*
 * The settings: kridtech.* of postgresql.conf.
 *
 * Where a key is sent, and which file holds it, must not be an ordinary user's choice, nor a database
 * owner's. PGC_SIGHUP is the context that neither SET nor ALTER DATABASE nor ALTER ROLE can reach;
 * a placeholder that a session made before the library was loaded is thrown away with a WARNING when
 * the setting is defined. GUC_SUPERUSER_ONLY would not hide a value from pg_monitor's members, which
 * is why no setting holds a secret.
 */
#include "postgres.h"

#include "settings.h"

#include "ascii.h"
#include "compat.h"
#include "fetchurl.h"
#include "nodes/pg_list.h"
#include "shmem.h"
#include "limits.h"
#include "netaddr.h"
#include "url.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

/* Units in which long settings are given and kept. */
#define A_SECOND 1000
#define A_MINUTE (60 * A_SECOND)
#define AN_HOUR (60 * A_MINUTE)

char *kt_base_url;
char *kt_api_key_file;
char *kt_account_id;
char *kt_ca_file;
int kt_connect_timeout;
int kt_request_timeout;
char *kt_databases;
int kt_max_concurrent_requests;
double kt_calls_per_second;
int kt_max_unknown;
bool kt_correlate;
int kt_max_queued_per_transaction;
int kt_settle_time;
int kt_sync_interval;
int kt_webhook_grace;
int kt_retention;
bool kt_notify;
int kt_probe_interval;
int kt_retry_limit;
bool kt_recordings;
char *kt_recording_hosts;
int kt_recording_max_size;
int kt_recording_timeout;
int kt_recording_max_age;
char *kt_webhook_listen;
char *kt_webhook_path;
char *kt_webhook_token_file;
char *kt_webhook_tls_cert_file;
char *kt_webhook_tls_key_file;
int kt_webhook_max_body;
int kt_webhook_max_connections;
int kt_webhook_max_per_address;
char *kt_webhook_trusted_proxies;
int kt_webhook_header_timeout;
int kt_webhook_body_timeout;
int kt_webhook_idle_timeout;
int kt_webhook_max_unverified;
int kt_webhook_max_inbox;

static const char *
fault_of_url(KtUrlFault fault)
{
	switch (fault)
	{
		case KT_URL_OK:
			return NULL;
		case KT_URL_MALFORMED:
			return "It is not an absolute URL with a host.";
		case KT_URL_SCHEME:
			return "Its scheme is neither https nor http.";
		case KT_URL_CREDENTIALS:
			return "It holds a user name or a password.";
		case KT_URL_QUERY:
			return "It holds a query or a fragment.";
		case KT_URL_PLAIN_HTTP:
			return "Plain http is allowed to a loopback address only: the API key would be readable on the way.";
	}
	return NULL;
}

/*
 * A value that is refused while the settings are defined leaves the built-in default in force: the real
 * API, where a test system's configuration may have meant another one. It may be refused for what it is, or
 * because it came by ALTER DATABASE or ALTER ROLE before the library was loaded; that one has displaced
 * postgresql.conf's by then. So it is remembered that there was a value, and nothing is sent until one is
 * taken. A value refused later leaves the one before it in force.
 */
static bool base_url_configured = false;
static int base_url_values = 0; /* taken so far; the first is the built-in default */

static bool
check_base_url(char **newval, void **extra, GucSource source)
{
	bool loopback_only;
	const char *fault = fault_of_url(kt_url_judge(*newval, &loopback_only));

	if (fault == NULL)
		return true;
	GUC_check_errdetail("%s", fault);
	return false;
}

static void
assign_base_url(const char *newval, void *extra)
{
	base_url_values++;
}

bool
kt_settings_usable(void)
{
	return !base_url_configured || base_url_values > 1;
}

static bool
check_account_id(char **newval, void **extra, GucSource source)
{
	const char *c;

	for (c = *newval; *c != '\0'; c++)
		if ((unsigned char) *c < 0x20 || *c == 0x7f)
		{
			GUC_check_errdetail("It holds a control character.");
			return false;
		}
	if (c - *newval > KT_MAX_ACCOUNT_ID)
	{
		GUC_check_errdetail("It is longer than %d bytes.", KT_MAX_ACCOUNT_ID);
		return false;
	}
	return true;
}

/*
 * The list's names as identifiers are read elsewhere: in double quotes as they stand, without them in
 * lower case. False when it is no such list. The names point into *copy.
 */
static bool
split_databases(const char *setting, char **copy, List **names)
{
	*copy = pstrdup(setting);
	*names = NIL;
	return SplitIdentifierString(*copy, ',', names);
}

static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char *copy;
	List *names;
	bool valid = split_databases(*newval, &copy, &names);
	int count = list_length(names);

	list_free(names);
	pfree(copy);
	if (!valid)
		GUC_check_errdetail("It is not a list of names, separated by commas; names with capital "
		                    "letters or special characters stand in double quotes.");
	else if (count > KT_MAX_DATABASES)
		GUC_check_errdetail("It names %d databases; %d can have workers.", count, KT_MAX_DATABASES);
	return valid && count <= KT_MAX_DATABASES;
}

List *
kt_settings_databases(void)
{
	char *copy;
	List *names;
	List *result = NIL;
	ListCell *cell;

	/* The check hook has let the list pass, so there is nothing to complain of here. */
	(void) split_databases(kt_databases, &copy, &names);
	foreach (cell, names)
	{
		ListCell *other;
		bool seen = false;

		foreach (other, result)
			seen = seen || strcmp(lfirst(other), lfirst(cell)) == 0;
		if (!seen)
			result = lappend(result, pstrdup(lfirst(cell)));
	}
	list_free(names);
	pfree(copy);
	return result;
}

bool
kt_settings_list_database(const char *name)
{
	List *names = kt_settings_databases();
	ListCell *cell;
	bool found = false;

	foreach (cell, names)
		found = found || strcmp(lfirst(cell), name) == 0;
	list_free_deep(names);
	return found;
}

static bool
check_recording_hosts(char **newval, void **extra, GucSource source)
{
	const char *fault = kt_fetchurl_check_hosts(*newval);

	if (fault != NULL)
		GUC_check_errdetail("%s", fault);
	return fault == NULL;
}

/* A path as it stands in a request: nothing that is written otherwise there, and no room for doubt. */
static bool
check_webhook_path(char **newval, void **extra, GucSource source)
{
	const char *c;
	const char *fault = NULL;

	if (**newval != '/')
		fault = "It does not begin with a slash.";
	else if ((*newval)[1] != '\0' && (*newval)[strlen(*newval) - 1] == '/')
		fault = "It ends with a slash.";
	else if (strcmp(*newval, "/healthz") == 0)
		fault = "That is where the receiver says whether it works.";
	else if (kt_has_dot_segment(*newval))
		fault = "It holds a segment \".\" or \"..\", which clients take away.";
	for (c = *newval; *c != '\0' && fault == NULL; c++)
		if (!kt_is_path(*c))
			fault = "It holds a character that cannot stand in a path as it is.";
	if (fault == NULL)
		return true;
	GUC_check_errdetail("%s", fault);
	return false;
}

static bool
check_networks(char **newval, void **extra, GucSource source)
{
	const char *list = *newval;
	struct sockaddr_storage address;
	int prefix = 0;
	int count = 0;

	while (prefix >= 0 && kt_netaddr_next_network(&list, &address, &prefix))
		count++;
	if (prefix >= 0 && count <= KT_MAX_PROXIES)
		return true;
	if (prefix < 0)
		GUC_check_errdetail("It is not a list of addresses and networks such as 10.0.0.0/8, "
		                    "separated by commas.");
	else
		GUC_check_errdetail("It names %d networks; at most %d are taken.", count, KT_MAX_PROXIES);
	return false;
}

static void
define_text(const char *name, const char *what, const char *more, char **variable, const char *boot,
            GucStringCheckHook check, GucStringAssignHook assign)
{
	DefineCustomStringVariable(name, what, more, variable, boot, PGC_SIGHUP, 0, check, assign,
	                           NULL);
}

static void
define_number(const char *name, const char *what, const char *more, int *variable, int boot,
              int least, int most)
{
	DefineCustomIntVariable(name, what, more, variable, boot, least, most, PGC_SIGHUP, 0, NULL,
	                        NULL, NULL);
}

static void
define_switch(const char *name, const char *what, const char *more, bool *variable, bool boot)
{
	DefineCustomBoolVariable(name, what, more, variable, boot, PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static void
define_interval(const char *name, const char *what, const char *more, int *variable, int boot)
{
	DefineCustomIntVariable(name, what, more, variable, boot, 100, 24 * AN_HOUR, PGC_SIGHUP,
	                        GUC_UNIT_MS, NULL, NULL, NULL);
}

static void
define_timeout(const char *name, const char *what, const char *more, int *variable, int boot)
{
	DefineCustomIntVariable(name, what, more, variable, boot, 100, 10 * A_MINUTE, PGC_SIGHUP,
	                        GUC_UNIT_MS, NULL, NULL, NULL);
}

/* How much the dialer may do, and when it stops by itself. */
static void
define_dialer_limits(void)
{
	define_number("kridtech.max_concurrent_requests",
	              "How many requests a database's dialer may have on the network.", NULL,
	              &kt_max_concurrent_requests, 64, 1, KT_MAX_CONCURRENT);
	DefineCustomRealVariable("kridtech.calls_per_second",
	                         "How many calls a database's dialer places a second at most.",
	                         "May be a fraction. 0: no limit.", &kt_calls_per_second, 0, 0, 1e6,
	                         PGC_SIGHUP, 0, NULL, NULL, NULL);
	define_number("kridtech.max_unknown",
	              "The dialer stops placing while so many requests of the last hour are unknown.",
	              "See kridtech_resolve_call(). 0: it never stops for that.", &kt_max_unknown, 5, 0,
	              INT_MAX);
	define_number("kridtech.max_queued_per_transaction",
	              "A transaction that queues more call requests is refused.", "0: no limit.",
	              &kt_max_queued_per_transaction, 10000, 0, INT_MAX);
	define_number("kridtech.retry_limit",
	              "After so many attempts that sent nothing a call request fails.", NULL,
	              &kt_retry_limit, 20, 1, INT_MAX);
}

static void
define_dialer(void)
{
	define_text("kridtech.databases", "The databases that get workers: a list of names.",
	            "Where it is empty, nothing dials. Databases may be named before they exist.",
	            &kt_databases, "", check_databases, NULL);
	define_dialer_limits();
	define_switch(
		"kridtech.correlate",
		"Adds the dynamic variable kridtech_ref, random per attempt, to every queued call.",
		"A webhook that brings it back proves which request it belongs to.", &kt_correlate, true);
	define_switch(
		"kridtech.notify",
		"Sends NOTIFY kridtech_calls when a request is finished, kridtech_webhooks for a new event.",
		NULL, &kt_notify, true);
	define_interval("kridtech.probe_interval",
	                "How often one request is tried while an account has insufficient credits.",
	                NULL, &kt_probe_interval, A_MINUTE);
}

static void
define_recordings(void)
{
	define_switch("kridtech.recordings",
	              "Fetches the recordings of verified webhook events into kridtech.recordings.",
	              NULL, &kt_recordings, false);
	define_text(
		"kridtech.recording_hosts", "The hosts that recordings may be fetched from.",
		"A list of names, of domains behind a leading dot, and of addresses, each with :port "
		"where it is not 443. A name must lead to a public address.",
		&kt_recording_hosts, "storage.kridtech.com", check_recording_hosts, NULL);
	DefineCustomIntVariable("kridtech.recording_max_size", "A larger recording is not fetched.",
	                        NULL, &kt_recording_max_size, 500 * 1024, 1, INT_MAX, PGC_SIGHUP,
	                        GUC_UNIT_KB, NULL, NULL, NULL);
	define_interval("kridtech.recording_timeout", "How long the download of a recording may take.",
	                NULL, &kt_recording_timeout, 10 * A_MINUTE);
	DefineCustomIntVariable("kridtech.recording_max_age",
	                        "How long after its webhook a recording is tried to be fetched.", NULL,
	                        &kt_recording_max_age, 7 * SECS_PER_DAY, 1, 366 * SECS_PER_DAY,
	                        PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

/* How much a receiver takes, and how long it waits for it. */
static void
define_receiver_limits(void)
{
	DefineCustomIntVariable("kridtech.webhook_max_body", "The largest webhook that is taken.", NULL,
	                        &kt_webhook_max_body, 16 * 1024 * 1024, 1024, KT_MAX_WEBHOOK_BODY,
	                        PGC_SIGHUP, GUC_UNIT_BYTE, NULL, NULL, NULL);
	define_number("kridtech.webhook_max_connections",
	              "How many connections a database's receiver has open.",
	              "Those beyond wait until one is closed.", &kt_webhook_max_connections, 256, 1,
	              KT_MAX_CONNECTIONS);
	define_number("kridtech.webhook_max_connections_per_address",
	              "How many of them one client address may have.",
	              "Loopback addresses and trusted proxies may have all. 0: no limit.",
	              &kt_webhook_max_per_address, 200, 0, KT_MAX_CONNECTIONS);
	define_timeout("kridtech.webhook_header_timeout",
	               "How long a request's headers, and a TLS handshake, may take to come.", NULL,
	               &kt_webhook_header_timeout, 5 * A_SECOND);
	define_timeout("kridtech.webhook_body_timeout", "How long a request's body may take to come.",
	               NULL, &kt_webhook_body_timeout, 12 * A_SECOND);
	define_timeout("kridtech.webhook_idle_timeout",
	               "How long a connection may wait for its next request.", NULL,
	               &kt_webhook_idle_timeout, 15 * A_SECOND);
}

static void
define_receiver(void)
{
	/* The server refuses a definition by a session; there it means nothing, but must not be unknown. */
	GucContext at_start =
		process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP;

	DefineCustomStringVariable("kridtech.webhook_listen",
	                           "Where webhooks are received: a list of [database@]address:port.",
	                           "Empty: nowhere. Without a database, the first of "
	                           "kridtech.databases gets them. IPv6 addresses stand in brackets.",
	                           &kt_webhook_listen, "", at_start, 0, NULL, NULL, NULL);
	define_text("kridtech.webhook_path", "The path of the webhook's URL.",
	            "A token of kridtech.webhook_token_file follows it.", &kt_webhook_path, "/webhook",
	            check_webhook_path, NULL);
	define_text("kridtech.webhook_token_file",
	            "The file that holds the tokens for the webhook's URL, one a line.",
	            "It must belong to the server's user and have permissions 0600 or 0400.",
	            &kt_webhook_token_file, "", NULL, NULL);
	define_text("kridtech.webhook_tls_cert_file",
	            "The receiver's certificate, followed by those up to its authority.",
	            "Without it only loopback addresses are listened on.", &kt_webhook_tls_cert_file,
	            "", NULL, NULL);
	define_text("kridtech.webhook_tls_key_file", "The key of the receiver's certificate.", NULL,
	            &kt_webhook_tls_key_file, "", NULL, NULL);
	define_text("kridtech.webhook_trusted_proxies",
	            "The reverse proxies whose X-Forwarded-For is believed: addresses and networks.",
	            NULL, &kt_webhook_trusted_proxies, "", check_networks, NULL);
	define_receiver_limits();
}

/* In kB, up to what PostgreSQL counts so: 2 TB. */
static void
define_size(const char *name, const char *what, const char *more, int *variable, int boot)
{
	DefineCustomIntVariable(name, what, more, variable, boot, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB,
	                        NULL, NULL, NULL);
}

/* What is learnt from GET /api/calls, and how long it is kept. */
static void
define_sync(void)
{
	DefineCustomIntVariable(
		"kridtech.sync_interval", "How often the API's list of calls is read into kridtech.calls.",
		"More often while an answer is awaited or calls are many. 0: not at all.",
		&kt_sync_interval, 5 * A_MINUTE, 0, 24 * AN_HOUR, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL,
		NULL);
	define_interval("kridtech.settle_time",
	                "How long after a lost answer the API's list of calls counts as evidence.",
	                NULL, &kt_settle_time, 3 * A_MINUTE);
	define_interval(
		"kridtech.webhook_grace", "How long after its end a call may be without a webhook.",
		"Then it stands in kridtech.missing_webhooks.", &kt_webhook_grace, 15 * A_MINUTE);
	DefineCustomIntVariable("kridtech.retention",
	                        "After how long what is finished is removed from the tables.",
	                        "0: nothing is ever removed.", &kt_retention, 0, 0, INT_MAX, PGC_SIGHUP,
	                        GUC_UNIT_S, NULL, NULL, NULL);
}

static void
define_webhook_bounds(void)
{
	define_size("kridtech.webhook_max_unverified",
	            "How much kridtech.webhook_events may hold that nothing has verified.",
	            "Counted by the bodies. Beyond it such a webhook is answered 503. 0: no limit.",
	            &kt_webhook_max_unverified, 1024 * 1024);
	define_size(
		"kridtech.webhook_max_inbox", "How much kridtech.webhook_inbox may hold.",
		"Counted by the bodies. Beyond it what would be kept there is answered 503. 0: no limit.",
		&kt_webhook_max_inbox, 256 * 1024);
}

void
kt_settings_define(void)
{
	base_url_configured = GetConfigOption("kridtech.base_url", true, false) != NULL;
	define_text("kridtech.base_url", "Where the Kridtech API is.",
	            "https only, except to a loopback address.", &kt_base_url,
	            "https://backend.kridtech.com", check_base_url, assign_base_url);
	define_text("kridtech.api_key_file", "The file that holds the API key.",
	            "It must belong to the server's user and have permissions 0600 or 0400.",
	            &kt_api_key_file, "", NULL, NULL);
	define_text("kridtech.account_id", "The default account: its login ID at Kridtech.", NULL,
	            &kt_account_id, "", check_account_id, NULL);
	define_text("kridtech.ca_file",
	            "A bundle of certificate authorities to trust besides the system's.", NULL,
	            &kt_ca_file, "", NULL, NULL);
	define_timeout("kridtech.connect_timeout", "How long a connection to the API may take to open.",
	               "From the look-up of the name to the end of the TLS handshake.",
	               &kt_connect_timeout, 10 * A_SECOND);
	define_timeout("kridtech.request_timeout", "How long a request to the API may take in all.",
	               NULL, &kt_request_timeout, 30 * A_SECOND);
	define_dialer();
	define_sync();
	define_recordings();
	define_receiver();
	define_webhook_bounds();
	kt_reserve_guc_prefix("kridtech");
}
