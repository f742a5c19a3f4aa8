/*
 * For LD_PRELOAD: names below .slow.invalid take half a minute to resolve, and then do not. Each time one
 * begins, a byte is appended to the file that KT_SLOW_DNS names. No other name resolves either, but
 * localhost: a test that goes wrong reaches nobody.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECONDS 30

static void
say_begun(void)
{
	const char *path = getenv("KT_SLOW_DNS");
	int fd = path != NULL ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd < 0)
		return;
	if (write(fd, ".", 1) != 1)
		abort();
	close(fd);
}

int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
            struct addrinfo **result)
{
	static const char suffix[] = ".slow.invalid";
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	struct timespec left = {.tv_sec = SECONDS};
	size_t len = name != NULL ? strlen(name) : 0;

	*(void **) &real = dlsym(RTLD_NEXT, "getaddrinfo");
	if (name == NULL || strcmp(name, "localhost") == 0 || strspn(name, "0123456789.") == len ||
	    strchr(name, ':') != NULL)
		return real(name, service, hints, result);
	if (len < sizeof(suffix) || strcmp(name + len - (sizeof(suffix) - 1), suffix) != 0)
		return EAI_NONAME;
	say_begun();
	while (nanosleep(&left, &left) != 0)
		;
	return EAI_NONAME;
}
