/*
 * API keys, the accounts they are bound to, and the rate limit of each: a count for each second.
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>

#define MAX_KEYS 1000

static SimKey *keys[MAX_KEYS];
static int nkeys;

void
sim_key_add(const char *spec)
{
	const char *equals = strchr(spec, '=');
	SimKey *key;

	if (nkeys == MAX_KEYS)
		return;
	key = sim_alloc(sizeof(*key));
	key->secret = sim_strdup(equals ? equals + 1 : spec);
	if (equals != NULL)
	{
		key->account = sim_strdup(spec);
		key->account[equals - spec] = '\0';
	}
	keys[nkeys++] = key;
}

int
sim_key_count(void)
{
	return nkeys;
}

SimKeyState
sim_key_find(const char *secret, SimKey **key)
{
	if (secret == NULL)
		return SIM_KEY_ABSENT;
	for (int i = 0; i < nkeys; i++)
		if (strcmp(keys[i]->secret, secret) == 0)
		{
			*key = keys[i];
			return SIM_KEY_VALID;
		}
	return SIM_KEY_INVALID;
}

bool
sim_key_admit(SimKey *key)
{
	int64_t second;

	if (sim_settings.rate_limit <= 0)
		return true;
	second = sim_now() / 1000000;
	if (second != key->window)
	{
		key->window = second;
		key->used = 0;
	}
	return key->used++ < sim_settings.rate_limit;
}

void
sim_key_reset(void)
{
	for (int i = 0; i < nkeys; i++)
		keys[i]->window = keys[i]->used = 0;
}
