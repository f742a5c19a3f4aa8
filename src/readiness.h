/*
 * May this dialer dial? Only where the extension is installed in the library's version, the database is no
 * copy, and no other dialer works on it. The receiver asks for the extension alone: what a copy receives does
 * no harm, and two receivers of one database share the work.
 */
#ifndef KT_READINESS_H
#define KT_READINESS_H

#include "datatype/timestamp.h"
#include "shmem.h"

typedef struct KtReadiness
{
	bool ready;
	TimestampTz born; /* what was queued before is not this database's to dial */
	int64 epoch;      /* of this dialer's run; 0: it has not begun */
	bool has_lock;    /* the session-level advisory lock of the one dialer */
	Oid extension;    /* the one the epoch belongs to: dropped and made again it is another */
	bool gone;        /* out: the extension is not there any more, or is another one */
	char problem[KT_MAX_STATUS]; /* out: why it is not ready */
} KtReadiness;

/*
 * Looks, in a transaction of its own, and begins a run (a new epoch) where one can begin: not while requests of the run before are in_flight.
 */
extern void kt_readiness_check(KtReadiness *readiness, int in_flight);

/* Can a worker that does not dial work here? */
typedef enum KtInstalled
{
	KT_INSTALLED,
	KT_NOT_INSTALLED,    /* no extension, or another version than the library's */
	KT_INSTALLED_UNKNOWN /* it could not be found out just now */
} KtInstalled;

/*
 * Looks, in a transaction of its own. *extension: its OID, if any; problem, of KT_MAX_STATUS bytes: why not;
 * database: the current database's name. Nothing is set where it could not be found out.
 */
extern KtInstalled kt_readiness_installed(Oid *extension, NameData *database, char *problem);

#endif /* KT_READINESS_H */
