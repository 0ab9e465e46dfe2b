/* Stands in for a CUDA program: becomes a client of the MPS server, says so in one line, and ends
 * with its server, or when it is told to.
 */

#include "protocol.h"

int main(int count, char **words)
{
    int uid = count > 1 ? atoi(words[1]) : 0;
    if (setgid((gid_t)uid) != 0 || setuid((uid_t)uid) != 0)
        give_up("setuid");
    int control = connect_as(I_AM_CLIENT);
    puts("waits");
    fflush(stdout);
    char word[16];
    int server = -1;
    get(control, word, sizeof word, &server);
    close(control); /* until then the control program waits for us, and does nothing else */
    put_int(server, getpid());
    puts("served");
    fflush(stdout);
    char nothing;
    while (recv(server, &nothing, sizeof nothing, 0) > 0)
        ;
    puts("lost its server");
    return 9;
}
