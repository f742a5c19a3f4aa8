/*
 * Every allocation function of PostgreSQL's frontend, for targets that link its parser. There palloc() is
 * malloc() and nobody frees what is read; here it is an arena, emptied after each input as a memory context would
 * be, so that a real leak still shows.
 */
#ifndef KT_ARENA_H
#define KT_ARENA_H

#include "fuzz.h"

/* What palloc() gives is aligned for anything: the header is a multiple of 16 bytes. */
typedef struct Chunk
{
	struct Chunk *next;
	struct Chunk **link; /* what points here */
	size_t size;
	size_t filler;
} Chunk;

static Chunk *arena;
static size_t arena_bytes;

static void *
arena_alloc(size_t size)
{
	Chunk *chunk = malloc(sizeof(Chunk) + size);

	MUST(chunk != NULL);
	chunk->size = size;
	chunk->next = arena;
	chunk->link = &arena;
	if (arena != NULL)
		arena->link = &chunk->next;
	arena = chunk;
	arena_bytes += size;
	return chunk + 1;
}

static void
arena_free(void *pointer)
{
	Chunk *chunk = (Chunk *) pointer - 1;

	*chunk->link = chunk->next;
	if (chunk->next != NULL)
		chunk->next->link = chunk->link;
	free(chunk);
}

static void
arena_empty(void)
{
	while (arena != NULL)
		arena_free(arena + 1);
	arena_bytes = 0;
}

void *
palloc(Size size)
{
	return arena_alloc(size);
}

void *
palloc0(Size size)
{
	return memset(arena_alloc(size), 0, size);
}

void *
palloc_extended(Size size, int flags)
{
	(void) flags;
	return palloc0(size);
}

void *
repalloc(void *pointer, Size size)
{
	void *bigger = arena_alloc(size);
	size_t old = ((Chunk *) pointer - 1)->size;

	memcpy(bigger, pointer, old < size ? old : size);
	arena_free(pointer);
	return bigger;
}

void
pfree(void *pointer)
{
	arena_free(pointer);
}

char *
pnstrdup(const char *in, Size size)
{
	size_t len = strnlen(in, size);
	char *copy = arena_alloc(len + 1);

	memcpy(copy, in, len);
	copy[len] = '\0';
	return copy;
}

char *
pstrdup(const char *in)
{
	return pnstrdup(in, strlen(in));
}

void *
pg_malloc(size_t size)
{
	return palloc(size);
}

void *
pg_malloc0(size_t size)
{
	return palloc0(size);
}

void *
pg_malloc_extended(size_t size, int flags)
{
	return palloc_extended(size, flags);
}

void *
pg_realloc(void *pointer, size_t size)
{
	return pointer != NULL ? repalloc(pointer, size) : palloc(size);
}

char *
pg_strdup(const char *in)
{
	return pstrdup(in);
}

void
pg_free(void *pointer)
{
	if (pointer != NULL)
		pfree(pointer);
}

#endif /* KT_ARENA_H */
