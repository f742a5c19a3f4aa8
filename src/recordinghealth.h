/*
 * The row of the view health that tells of the fetching of recordings: health.c puts it there.
 */
#ifndef KT_RECORDINGHEALTH_H
#define KT_RECORDINGHEALTH_H

#include "datatype/timestamp.h"

typedef struct KtRecordingHealth
{
	bool applies; /* false: this server fetches nothing for now, and need not */
	bool ok;
	char *detail;      /* palloc'd */
	TimestampTz since; /* 0: not known */
} KtRecordingHealth;

/*
 * For the current database, in any backend, while kridtech.recordings is on. Reads the tables as their owner, so
 * library and objects must be of one version.
 */
extern void kt_recording_health(KtRecordingHealth *health);

#endif /* KT_RECORDINGHEALTH_H */
