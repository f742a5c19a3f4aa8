/*
 * How often an account's list of calls is read.
 *
 * The list holds the 100 newest calls. It is read so often that less than half of them are new, so that traffic
 * may double from one list to the next without a call passing unseen; what it learns of the traffic it forgets
 * slowly. It is read more often while something waits for it, and less often when it has nothing to tell.
 */
#include "cadence.h"

#include "retry.h"

#ifdef POSTGRES_H
#error "floor 0 knows nothing of PostgreSQL"
#endif

/* However short the settings are, and however busy the account is. */
#define LEAST INT64_C(100000)
#define BUSIEST INT64_C(1000000)

/* While the end of a call is awaited. */
#define AWAITED INT64_C(30000000)

/* So many new calls are wanted between two lists. */
#define WANTED 45

/* An interval is doubled so often when nothing changes. */
#define MAX_IDLE 2

static int64_t
lesser(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t
greater(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

int64_t
kt_cadence_interval(const KtCadence *cadence, const KtCadenceRules *rules)
{
	int64_t interval = rules->interval << cadence->idle;

	switch (cadence->urgency)
	{
		case KT_ANSWER_LOST:
			interval = lesser(lesser(interval, rules->interval), rules->lost);
			break;
		case KT_END_AWAITED:
			interval = lesser(lesser(interval, rules->interval), AWAITED);
			break;
		case KT_NOTHING_AWAITED:
			break;
	}
	if (cadence->busy > 0)
		interval = lesser(interval, cadence->busy);
	return greater(interval, LEAST);
}

int64_t
kt_cadence_due(const KtCadence *cadence, const KtCadenceRules *rules)
{
	if (cadence->failures > 0)
		return cadence->retry_at;
	if (cadence->rested_at == 0)
		return 0;
	return cadence->rested_at + kt_cadence_interval(cadence, rules);
}

void
kt_cadence_stored(KtCadence *cadence, const KtCadenceRules *rules, int64_t now, int fresh, bool gap,
                  bool changed)
{
	int64_t elapsed = cadence->asked_at != 0 ? now - cadence->asked_at : 0;
	int64_t eased = cadence->busy * 2;
	int64_t demanded = 0;

	cadence->failures = 0;
	cadence->rested_at = cadence->asked_at = now;
	cadence->idle = changed ? 0 : cadence->idle < MAX_IDLE ? cadence->idle + 1 : MAX_IDLE;
	if (elapsed == 0)
		return;
	/* with a gap all are new, and nobody knows how many more there were */
	if (gap)
		demanded = elapsed / 4;
	else if (fresh > 0)
		demanded = elapsed * WANTED / fresh;
	if (eased > 0)
		demanded = demanded > 0 ? lesser(demanded, eased) : eased;
	cadence->busy =
		demanded > 0 && demanded < rules->interval << MAX_IDLE ? greater(demanded, BUSIEST) : 0;
}

void
kt_cadence_failed(KtCadence *cadence, const KtCadenceRules *rules, int64_t now, uint64_t random)
{
	cadence->failures++;
	cadence->rested_at = now;
	cadence->retry_at = now + greater(kt_retry_delay(cadence->failures, random),
	                                  kt_cadence_interval(cadence, rules));
}
