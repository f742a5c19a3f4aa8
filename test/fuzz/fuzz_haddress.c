/* X-Forwarded-For of any bytes: a stranger's is not believed, and a proxy's ends at an address or at the proxy. */
#include "fuzz.h"

#include <netinet/in.h>

#include "haddress.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	KtHttpdNetwork proxy = {.prefix = 8};
	struct sockaddr_in *network = (struct sockaddr_in *) &proxy.address;
	struct sockaddr_storage client = {0};
	struct sockaddr_storage before;
	struct sockaddr_in *in = (struct sockaddr_in *) &client;
	char *list = malloc(size > 0 ? size : 1);

	MUST(list != NULL);
	memcpy(list, data, size);
	network->sin_family = in->sin_family = AF_INET;
	network->sin_addr.s_addr = htonl(0x0A000000);

	in->sin_addr.s_addr = htonl(0xC0000201);
	before = client;
	kt_haddress_forwarded(&client, list, size, &proxy, 1);
	MUST(memcmp(&client, &before, sizeof(before)) == 0);

	in->sin_addr.s_addr = htonl(0x0A000001);
	kt_haddress_forwarded(&client, list, size, &proxy, 1);
	MUST(client.ss_family == AF_INET || client.ss_family == AF_INET6);
	free(list);
	return 0;
}
