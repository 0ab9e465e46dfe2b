/* A setuid-root program, as ordinary images have some: runs another as root, if the kernel lets it. */

#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>

int main(int count, char **words)
{
    if (count < 2)
        return 2;
    if (setresuid(0, 0, 0) != 0)
        perror("as-root");
    printf("uid %d\n", (int)geteuid());
    fflush(stdout);
    execv(words[1], words + 1);
    perror(words[1]);
    return 126;
}
