/*
 * A webhook delivery: its bytes into fields.
 *
 * The vendor sends a transcript once and never again, so nearly everything is taken: what is odd is repaired
 * or left out, never refused. Compiles for the server and, for the fuzzers, for frontend programs.
 */
#ifndef KT_WEBHOOK_H
#define KT_WEBHOOK_H

#include <stddef.h>

/* Strings are palloc'd, valid UTF-8 without NUL; NULL where the field is missing, null, or of another type. */
typedef struct KtWebhook
{
	/* The caller's, and still there when it is stored. */
	const char *raw;         /* the body, byte for byte */
	size_t raw_len;          /* less than 1 GB */
	const char *remote_addr; /* the client as inet has it, without a port; NULL: not known */

	const char *fault; /* why it can be no event, a constant; NULL: it can */
	char *call_id;     /* never NULL or empty without a fault, at most KT_MAX_CALL_ID bytes */
	char *status;
	char *duration_ms; /* a JSON number, as it stands */
	char *transcript;
	char *recording_url;
	char *dynamic_variables; /* JSON that jsonb takes, whatever the body held */
} KtWebhook;

/*
 * Reads a body into webhook, all of whose members it sets, remote_addr to NULL. The one demand on a body is a
 * JSON object with a non-empty string callId of bounded length; what else is in it cannot make it a fault.
 * Needs no transaction; throws for memory only.
 */
extern void kt_webhook_read(const char *body, size_t len, KtWebhook *webhook);

#endif /* KT_WEBHOOK_H */
