/* Sockets in the epoll set: what becomes of a connection that is idle. */
#include "unit.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sockets.h"

/* A connection as libcurl has one, its other end, and what of it was handed on. */
typedef struct Pair
{
	KtSockets sockets;
	int ours;
	int theirs;
	int nready;
} Pair;

static void
on_ready(void *arg, int fd, uint32_t events)
{
	Pair *pair = arg;

	assert_int_equal(fd, pair->ours);
	assert_true(events != 0);
	pair->nready++;
}

static void
look(Pair *pair)
{
	kt_sockets_poll(&pair->sockets, on_ready, pair);
}

/* A connection that was watched for that and is idle now. */
static void
begin(Pair *pair, uint32_t wanted, bool pauses)
{
	int ends[2];

	assert_true(kt_sockets_init(&pair->sockets));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	pair->ours = ends[0];
	pair->theirs = ends[1];
	pair->nready = 0;
	kt_sockets_opened(&pair->sockets, pair->ours, pauses);
	assert_true(kt_sockets_watch(&pair->sockets, pair->ours, wanted));
	assert_true(kt_sockets_watch(&pair->sockets, pair->ours, 0));
}

static void
end(Pair *pair)
{
	kt_sockets_closed(&pair->sockets, pair->ours);
	close(pair->ours);
	close(pair->theirs);
	kt_sockets_free(&pair->sockets);
}

static bool
can_send(const Pair *pair)
{
	ssize_t n = send(pair->ours, "x", 1, MSG_NOSIGNAL);

	assert_true(n == 1 || errno == EPIPE);
	return n == 1;
}

static void
an_idle_connection_from_which_nothing_comes_is_left_alone(void **state)
{
	static const uint32_t ways[] = {EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLOUT};
	size_t i;

	(void) state;
	for (i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
	{
		Pair pair;
		char byte;

		begin(&pair, ways[i], false);
		look(&pair);
		look(&pair);
		assert_true(can_send(&pair));
		assert_int_equal(recv(pair.theirs, &byte, 1, 0), 1);
		assert_int_equal(pair.nready, 0);

		/* and is good for the next request */
		assert_true(kt_sockets_watch(&pair.sockets, pair.ours, EPOLLIN));
		assert_int_equal(send(pair.theirs, "y", 1, 0), 1);
		look(&pair);
		assert_int_equal(pair.nready, 1);
		end(&pair);
	}
}

static void
one_that_the_other_end_closes_can_send_nothing_more(void **state)
{
	static const uint32_t ways[] = {EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLOUT};
	size_t i;

	(void) state;
	for (i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
	{
		Pair pair;

		begin(&pair, ways[i], false);
		assert_int_equal(shutdown(pair.theirs, SHUT_WR), 0);
		look(&pair);
		assert_false(can_send(&pair));
		look(&pair);
		assert_int_equal(pair.nready, 0);
		end(&pair);
	}
}

/* It would be taken for the beginning of the next answer. */
static void
nor_can_one_from_which_something_comes_unasked(void **state)
{
	Pair pair;

	(void) state;
	begin(&pair, EPOLLIN, false);
	assert_int_equal(send(pair.theirs, "y", 1, 0), 1);
	look(&pair);
	assert_false(can_send(&pair));
	assert_int_equal(pair.nready, 0);
	end(&pair);
}

/* What libcurl does for a connection that is ready: it begins the next request on an idle one. */
static void
on_ready_use_other(void *arg, int fd, uint32_t events)
{
	Pair *pairs = arg;

	(void) events;
	pairs->nready++;
	if (fd == pairs[0].ours)
		assert_true(kt_sockets_watch(&pairs->sockets, pairs[1].ours, EPOLLIN));
}

static void
nor_can_one_that_is_taken_for_a_request_just_then(void **state)
{
	int first;

	(void) state;
	/* in whatever order the kernel tells of the two */
	for (first = 0; first < 2; first++)
	{
		Pair pairs[2];
		int ends[2];

		begin(&pairs[0], EPOLLIN, false);
		assert_true(kt_sockets_watch(&pairs[0].sockets, pairs[0].ours, EPOLLIN));
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
		pairs[1].ours = ends[0];
		pairs[1].theirs = ends[1];
		kt_sockets_opened(&pairs[0].sockets, ends[0], false);
		assert_true(kt_sockets_watch(&pairs[0].sockets, ends[0], EPOLLIN));
		assert_true(kt_sockets_watch(&pairs[0].sockets, ends[0], 0));
		if (first == 0)
			assert_int_equal(send(pairs[0].theirs, "y", 1, 0), 1);
		assert_int_equal(shutdown(pairs[1].theirs, SHUT_WR), 0);
		if (first == 1)
			assert_int_equal(send(pairs[0].theirs, "y", 1, 0), 1);
		kt_sockets_poll(&pairs[0].sockets, on_ready_use_other, pairs);
		assert_int_equal(pairs[0].nready, 1);
		assert_false(can_send(&pairs[1]));
		kt_sockets_closed(&pairs[0].sockets, ends[0]);
		close(ends[0]);
		close(ends[1]);
		end(&pairs[0]);
	}
}

/* It may be in the middle of an answer, for which there is no room yet. */
static void
one_whose_transfer_may_be_paused_is_left_as_it_is(void **state)
{
	Pair pair;
	char byte;

	(void) state;
	begin(&pair, EPOLLIN, true);
	assert_int_equal(send(pair.theirs, "y", 1, 0), 1);
	look(&pair);
	assert_true(can_send(&pair));
	assert_true(kt_sockets_watch(&pair.sockets, pair.ours, EPOLLIN));
	look(&pair);
	assert_int_equal(pair.nready, 1);
	assert_int_equal(recv(pair.ours, &byte, 1, 0), 1);
	end(&pair);
}

static void
one_that_is_in_use_is_handed_on_whatever_comes(void **state)
{
	Pair pair;

	(void) state;
	begin(&pair, EPOLLIN, false);
	assert_true(kt_sockets_watch(&pair.sockets, pair.ours, EPOLLIN));
	assert_int_equal(shutdown(pair.theirs, SHUT_WR), 0);
	look(&pair);
	assert_int_equal(pair.nready, 1);
	assert_true(can_send(&pair));
	end(&pair);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_idle_connection_from_which_nothing_comes_is_left_alone),
		cmocka_unit_test(one_that_the_other_end_closes_can_send_nothing_more),
		cmocka_unit_test(nor_can_one_from_which_something_comes_unasked),
		cmocka_unit_test(nor_can_one_that_is_taken_for_a_request_just_then),
		cmocka_unit_test(one_whose_transfer_may_be_paused_is_left_as_it_is),
		cmocka_unit_test(one_that_is_in_use_is_handed_on_whatever_comes),
	};

	return cmocka_run_group_tests_name("sockets", tests, NULL, NULL);
}
