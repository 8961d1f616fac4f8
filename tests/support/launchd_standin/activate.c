/* launch_activate_socket(3) where there is no launchd: gives what the stand-in passed as STANDIN_SOCKETS="name:3,4".
 * As on macOS the caller owns the array, and asking again answers EALREADY. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int launch_activate_socket(const char *name, int **fds, size_t *count) {
    static int given;
    const char *passed = getenv("STANDIN_SOCKETS");
    size_t length = strlen(name);
    if (!passed) return ESRCH;
    if (strncmp(passed, name, length) != 0 || passed[length] != ':') return ENOENT;
    if (given) return EALREADY;
    given = 1;
    *fds = malloc(strlen(passed) * sizeof(int));
    *count = 0;
    for (const char *place = passed + length; *place; place = strchr(place + 1, ',') ? strchr(place + 1, ',') : "")
        (*fds)[(*count)++] = atoi(place + 1);
    return 0;
}
