/*
 * Which databases are to have workers: those that kridtech.databases names, as far as pg_database has them.
 */
#ifndef KT_DATABASES_H
#define KT_DATABASES_H

#include "listen.h"
#include "shmem.h"

/* What one look into pg_database found. */
typedef struct KtDatabases
{
	int named;
	int count;
	int receivers; /* how many of them are to have one */
	Oid databases[KT_MAX_DATABASES];
	NameData names[KT_MAX_DATABASES];
	bool receives[KT_MAX_DATABASES];
	bool wanted[KT_MAX_LISTENERS]; /* the socket has a database here */
	char missing[KT_MAX_STATUS];   /* words about the others */
} KtDatabases;

/* A unit of work for kt_xact_run(): fills a KtDatabases. */
extern void kt_databases_look(void *databases);

/* Adds a database and what is wrong with it to a status, as far as there is room. */
extern void kt_databases_say(char words[KT_MAX_STATUS], const char *name, const char *fault);

#endif /* KT_DATABASES_H */
