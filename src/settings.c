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

#include "compat.h"
#include "url.h"

char *kt_base_url;
char *kt_api_key_file;
char *kt_account_id;
char *kt_ca_file;
int kt_connect_timeout;
int kt_request_timeout;

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
	return true;
}

static void
define_text(const char *name, const char *what, const char *more, char **variable, const char *boot,
            GucStringCheckHook check, GucStringAssignHook assign)
{
	DefineCustomStringVariable(name, what, more, variable, boot, PGC_SIGHUP, 0, check, assign,
	                           NULL);
}

static void
define_timeout(const char *name, const char *what, const char *more, int *variable, int boot)
{
	DefineCustomIntVariable(name, what, more, variable, boot, 100, 600 * 1000, PGC_SIGHUP,
	                        GUC_UNIT_MS, NULL, NULL, NULL);
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
	               &kt_connect_timeout, 10 * 1000);
	define_timeout("kridtech.request_timeout", "How long a request to the API may take in all.",
	               NULL, &kt_request_timeout, 30 * 1000);
	kt_reserve_guc_prefix("kridtech");
}
