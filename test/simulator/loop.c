/*
 * The event loop's parts: the monotonic clock, a binary heap of timers, an epoll set of watches.
 *
 * A timer knows its own place in the heap, so setting, moving and clearing one are logarithmic, with a
 * hundred thousand calls under way too. A watch may be removed while events of the same turn are told:
 * its entries in that turn are struck out.
 */
#include "simulator.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_A_TURN 256

static SimTimer **heap; /* from 1 */
static size_t heap_len;
static size_t heap_cap;
static int epoll_fd = -1;
static struct epoll_event events[EVENTS_A_TURN];
static int nevents;

int64_t
sim_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void
place(SimTimer *timer, size_t pos)
{
	heap[pos] = timer;
	timer->pos = pos;
}

static void
sift_up(SimTimer *timer, size_t pos)
{
	for (; pos > 1 && heap[pos / 2]->due > timer->due; pos /= 2)
		place(heap[pos / 2], pos);
	place(timer, pos);
}

static void
sift_down(SimTimer *timer, size_t pos)
{
	for (size_t child; (child = pos * 2) <= heap_len; pos = child)
	{
		if (child < heap_len && heap[child + 1]->due < heap[child]->due)
			child++;
		if (heap[child]->due >= timer->due)
			break;
		place(heap[child], pos);
	}
	place(timer, pos);
}

void
sim_timer_clear(SimTimer *timer)
{
	size_t pos = timer->pos;
	SimTimer *last;

	if (pos == 0)
		return;
	timer->pos = 0;
	last = heap[heap_len--];
	if (last == timer)
		return;
	if (pos > 1 && heap[pos / 2]->due > last->due)
		sift_up(last, pos);
	else
		sift_down(last, pos);
}

void
sim_timer_set(SimTimer *timer, int64_t due)
{
	sim_timer_clear(timer);
	if (heap_len + 1 >= heap_cap)
	{
		size_t cap = heap_cap ? heap_cap * 2 : 1024;
		SimTimer **bigger = sim_alloc(cap * sizeof(*bigger));

		for (size_t i = 1; i <= heap_len; i++)
			bigger[i] = heap[i];
		free(heap);
		heap = bigger;
		heap_cap = cap;
	}
	timer->due = due;
	sift_up(timer, ++heap_len);
}

bool
sim_loop_init(void)
{
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return epoll_fd >= 0;
}

bool
sim_loop_add(SimWatch *watch, uint32_t epoll_events)
{
	struct epoll_event event = {.events = epoll_events, .data.ptr = watch};

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, watch->fd, &event) == 0;
}

void
sim_loop_remove(SimWatch *watch)
{
	epoll_ctl(epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	for (int i = 0; i < nevents; i++)
		if (events[i].data.ptr == watch)
			events[i].data.ptr = NULL;
}

static int64_t
patience(int64_t timeout_ms)
{
	int64_t ms;

	if (heap_len == 0)
		return timeout_ms;
	ms = (heap[1]->due - sim_now() + 999) / 1000;
	if (ms < 0)
		ms = 0;
	return timeout_ms >= 0 && timeout_ms < ms ? timeout_ms : ms;
}

void
sim_loop_turn(int64_t timeout_ms)
{
	int64_t ms = patience(timeout_ms);
	int64_t now;

	nevents = epoll_wait(epoll_fd, events, EVENTS_A_TURN, ms > 60000 ? 60000 : (int) ms);
	for (int i = 0; i < nevents; i++)
	{
		SimWatch *watch = events[i].data.ptr;

		if (watch != NULL)
			watch->ready(watch);
	}
	nevents = 0;
	if (heap_len == 0)
		return;
	now = sim_now();
	while (heap_len > 0 && heap[1]->due <= now)
	{
		SimTimer *timer = heap[1];

		sim_timer_clear(timer);
		timer->fire(timer);
	}
}
