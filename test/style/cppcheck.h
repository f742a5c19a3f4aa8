/*
 * What cppcheck should know of the server, whose headers it does not read: which macros expand to
 * nothing, and that an ereport of ERROR does not return.
 */
#define PG_MODULE_MAGIC
#define PG_FUNCTION_INFO_V1(function)
#define PG_VERSION_NUM 150000
#define KRIDTECH_VERSION "0"
#define LOG 15
#define WARNING 19
#define ERROR 21
#define FATAL 22
#define ereport(level, ...) ((level) >= ERROR ? abort() : (void) (__VA_ARGS__))
#define elog(level, ...) ((level) >= ERROR ? abort() : (void) (__VA_ARGS__))
