/*
 * A hash from strings to pointers: open addressing, doubled when half full, nothing is ever removed singly.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>

static size_t
slot_of(const SimHash *hash, const char *key)
{
	uint64_t h = 0xCBF29CE484222325u;
	size_t slot;

	for (const char *c = key; *c != '\0'; c++)
		h = (h ^ (unsigned char) *c) * 0x100000001B3u;
	slot = (size_t) (h ^ h >> 32) & (hash->size - 1);
	while (hash->keys[slot] != NULL && strcmp(hash->keys[slot], key) != 0)
		slot = (slot + 1) & (hash->size - 1);
	return slot;
}

void *
sim_hash_get(const SimHash *hash, const char *key)
{
	return hash->size == 0 ? NULL : hash->values[slot_of(hash, key)];
}

static void
grow(SimHash *hash)
{
	SimHash bigger = {.size = hash->size ? hash->size * 2 : 64, .used = hash->used};

	bigger.keys = sim_alloc(bigger.size * sizeof(*bigger.keys));
	bigger.values = sim_alloc(bigger.size * sizeof(*bigger.values));
	for (size_t i = 0; i < hash->size; i++)
	{
		size_t slot;

		if (hash->keys[i] == NULL)
			continue;
		slot = slot_of(&bigger, hash->keys[i]);
		bigger.keys[slot] = hash->keys[i];
		bigger.values[slot] = hash->values[i];
	}
	free(hash->keys);
	free(hash->values);
	*hash = bigger;
}

void
sim_hash_put(SimHash *hash, const char *key, void *value)
{
	size_t slot;

	if (hash->used * 2 >= hash->size)
		grow(hash);
	slot = slot_of(hash, key);
	if (hash->keys[slot] == NULL)
		hash->used++;
	hash->keys[slot] = key;
	hash->values[slot] = value;
}

void
sim_hash_clear(SimHash *hash, void (*free_value)(void *))
{
	for (size_t i = 0; i < hash->size; i++)
		if (hash->keys[i] != NULL && free_value != NULL)
			free_value(hash->values[i]);
	free(hash->keys);
	free(hash->values);
	*hash = (SimHash){0};
}
