/*
 * One transfer of the HTTP client: its libcurl handle, what it sends, what has come of it.
 *
 * For http.c alone, which decides when a transfer begins, ends and is used again.
 */
#ifndef KT_TRANSFER_H
#define KT_TRANSFER_H

#include <curl/curl.h>

#include "answerhead.h"
#include "buf.h"
#include "download.h"
#include "http.h"
#include "sockets.h"

struct KtHttpTransfer
{
	CURL *easy;
	KtSockets *sockets; /* told of every socket opened and closed */
	char *ca_file;      /* the one easy is set to, or NULL for libcurl's default */
	struct curl_slist *headers;

	char *body;
	size_t body_len;
	size_t body_taken; /* bytes libcurl has been handed; only ever grows */

	KtBuf answer;
	KtAnswerHead head;
	bool too_large;

	KtDownload download;

	bool owned;            /* submitted, and neither released nor aborted */
	bool in_multi;         /* libcurl holds it */
	const uint64_t *turns; /* how many turns libcurl has had; in the one it was added in ... */
	uint64_t added;        /* ... libcurl has not looked at it yet */
	bool barred;           /* must send nothing any more */
	bool begun;            /* libcurl has been let send it, */
	bool repeated; /* and wanted to once more, where it may not tell what had left by then */
	bool loopback_only;
	int last_socket; /* the last one opened for it; libcurl may have closed it since */
	bool connecting; /* deadline is the connect deadline, request_deadline comes after it */
	int64_t deadline;
	int64_t request_deadline;
	void *owner;

	bool ended; /* in the list of the ended, to be reaped */
	int curl_code;
	const char *own_words; /* ours, instead of libcurl's error */
	char error[CURL_ERROR_SIZE];

	KtHttpTransfer *prev; /* in the deadline list */
	KtHttpTransfer *next; /* in the deadline list, the list of the ended or the free list */
};

/* A transfer whose handle is set for that CA bundle (NULL: libcurl's default). NULL when memory is out. */
extern KtHttpTransfer *kt_transfer_make(KtSockets *sockets, const char *ca_file);
extern void kt_transfer_free(KtHttpTransfer *t);

/* True when the handle is set for that bundle: it cannot be set back to libcurl's default. */
extern bool kt_transfer_trusts(const KtHttpTransfer *t, const char *ca_file);

/* Sets the handle for a request. False when memory is out or the URL is unusable. */
extern bool kt_transfer_prepare(KtHttpTransfer *t, const KtHttpRequest *request);

/* Forgets the request and its answer; the handle stays for the next one, and at most keep bytes for its answer. */
extern void kt_transfer_forget(KtHttpTransfer *t, size_t keep);

/* True while a resolver thread may work for it: it has begun, and libcurl does not know the address yet. */
extern bool kt_transfer_resolving(KtHttpTransfer *t);

/* True once it can be sent: connected, with TLS. */
extern bool kt_transfer_connected(KtHttpTransfer *t);

/* Bytes of the request that have left. */
extern int64_t kt_transfer_sent(KtHttpTransfer *t);

/* Where it stands, as words for a time-out. */
extern const char *kt_transfer_phase(KtHttpTransfer *t);

/* How it ended. Points into the transfer. */
extern void kt_transfer_answer(KtHttpTransfer *t, KtHttpAnswer *answer);

#endif /* KT_TRANSFER_H */
