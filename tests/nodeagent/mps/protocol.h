/* What NVIDIA's nvidia-cuda-mps-control says on its socket, as seen with strace: packets, each peer
 * greeted and answering with its credentials and then with what it is.
 */

#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { I_AM_SERVER = 1, I_AM_CLIENT = 2 };

static void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static void put(int peer, const void *data, size_t length)
{
    if (send(peer, data, length, MSG_NOSIGNAL) != (ssize_t)length)
        give_up("send");
}

static void put_int(int peer, int32_t value)
{
    put(peer, &value, sizeof value);
}

/* A packet; what comes with it as SCM_RIGHTS goes to `passed`. Ends us when the peer has gone. */
static size_t get(int peer, void *data, size_t length, int *passed)
{
    char room[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    struct iovec part = {data, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room,
                             .msg_controllen = sizeof room};
    ssize_t got = recvmsg(peer, &message, MSG_CMSG_CLOEXEC);
    if (got <= 0)
        exit(0);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (passed && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(passed, CMSG_DATA(c), sizeof(int));
    return (size_t)got;
}

/* Connects to the control daemon of CUDA_MPS_PIPE_DIRECTORY. */
static int connect_as(int32_t what)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/control",
             getenv("CUDA_MPS_PIPE_DIRECTORY"));
    int peer = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connect(peer, (struct sockaddr *)&address, sizeof address) != 0)
        give_up(address.sun_path);
    char greeting[16];
    get(peer, greeting, sizeof greeting, NULL);

    char room[CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec part = {"OUTBCRED", 9};
    struct msghdr answer = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room,
                            .msg_controllen = sizeof room};
    struct cmsghdr *header = CMSG_FIRSTHDR(&answer);
    struct ucred credentials = {getpid(), getuid(), getgid()};
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_CREDENTIALS;
    header->cmsg_len = CMSG_LEN(sizeof credentials);
    memcpy(CMSG_DATA(header), &credentials, sizeof credentials);
    if (sendmsg(peer, &answer, MSG_NOSIGNAL) < 0)
        give_up("credentials");
    put_int(peer, what);
    return peer;
}
