/*
 * The body of a transfer that is not kept but handed on as it arrives: what http.h calls a download.
 *
 * For transfer.c; the owner's side of it is KtHttpDownload in http.h.
 */
#ifndef KT_DOWNLOAD_H
#define KT_DOWNLOAD_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "http.h"

typedef struct KtDownload
{
	CURL *easy;
	KtHttpDownload wants; /* all NULL for a request that is no download */
	void *owner;
	int64_t received;     /* bytes its sink has taken */
	const char *fault;    /* why no more of the body is taken */
	bool delimited;       /* the header says where the body ends */
	bool encoded;         /* the body has a content encoding */
	bool address_refused; /* the owner did not let an address pass */
	bool too_large;
} KtDownload;

/* Sets the handle for a download, or back for any other request. False when libcurl refuses. */
extern bool kt_download_prepare(KtDownload *d, CURL *easy, const KtHttpRequest *request);

/* May a connection be made to that address? For the callback that opens sockets. */
extern bool kt_download_may_open(KtDownload *d, const struct sockaddr *address);

/* Looks at a header line, for what kt_download_body() wants to know. */
extern void kt_download_header(KtDownload *d, const char *line, size_t len);

/* Takes a piece of the body; returns what libcurl's write callback is to return. */
extern size_t kt_download_body(KtDownload *d, const char *bytes, size_t len);

/* Adds to an answer what is known of the download. */
extern void kt_download_answer(KtDownload *d, KtHttpAnswer *answer);

static inline bool
kt_download_is_wanted(const KtDownload *d)
{
	return d->wants.sink != NULL;
}

#endif /* KT_DOWNLOAD_H */
