/* Stands in for nvidia-cuda-mps-server, which needs a GPU: NVIDIA's control program starts it, and
 * cannot tell it from its own. It keeps limits and clients and does nothing on a GPU.
 *
 * A signal or a file in the folder STAND_IN makes it misbehave:
 *   SIGUSR1          a fatal fault: FAULT until all clients of that moment have ended
 *   the file `dies`  it ends at once, as where there is no GPU
 *   the file `slow`  it is never ready
 */

#include "protocol.h"

enum { DEVICES = 32, CLIENTS = 64, SHARED_NAME = 0x204 };
enum { NEW_CLIENT = 2, SHUT_DOWN = 5, LIST_CLIENTS = 6, GET_LIMIT = 11, SET_LIMIT = 12,
       TERMINATE = 13, PROCESSES = 14, STATUS = 17 };

static int32_t get_int(int peer)
{
    int32_t value = 0;
    get(peer, &value, sizeof value, NULL);
    return value;
}

static uint64_t limits[DEVICES];
static struct { int peer; int32_t pid; } clients[CLIENTS];
static int count;
static volatile sig_atomic_t faulty;

static void fault(int number)
{
    (void)number;
    faulty = 1;
}

static int is_told(const char *word)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("STAND_IN") ? getenv("STAND_IN") : "", word);
    return access(path, F_OK) == 0;
}

/* A control daemon in the foreground leaves its output open for its servers. */
static void complain(const char *text)
{
    fprintf(stderr, "[2026-01-01 00:00:00.000 Other %d] %s\n", getpid(), text);
}

static void drop(int n)
{
    close(clients[n].peer);
    clients[n] = clients[--count];
    if (count == 0)
        faulty = 0;
}

static void take_client(int control)
{
    char word[16];
    int peer = -1;
    get(control, word, sizeof word, &peer);
    if (peer < 0 || count == CLIENTS)
        give_up("client");
    clients[count].peer = peer;
    clients[count++].pid = 0; /* it says so itself */
}

static void list_clients(int control)
{
    uint64_t number = (uint64_t)count;
    put(control, &number, sizeof number);
    for (int n = 0; n < count; n++)
        put_int(control, clients[n].pid);
}

static void set_limit(int control)
{
    int32_t device = get_int(control);
    uint64_t limit = 0;
    get(control, &limit, sizeof limit, NULL);
    limits[device % DEVICES] = limit;
}

static void terminate(int control)
{
    int32_t pid = get_int(control), result = 1;
    for (int n = count - 1; n >= 0; n--)
        if (clients[n].pid == pid) {
            drop(n);
            result = 0;
        }
    put_int(control, result);
}

static void obey(int control)
{
    switch (get_int(control)) {
    case NEW_CLIENT: take_client(control); break;
    case LIST_CLIENTS: list_clients(control); break;
    case GET_LIMIT: put(control, &limits[get_int(control) % DEVICES], sizeof *limits); break;
    case SET_LIMIT: set_limit(control); break;
    case TERMINATE: terminate(control); break;
    case PROCESSES: put_int(control, 0); break;
    case STATUS: put_int(control, faulty ? 0 : 1); break;
    case SHUT_DOWN:
        send(control, &count, sizeof count, MSG_NOSIGNAL); /* 535 has closed it by now */
        if (count == 0)
            exit(0);
        break;
    default: give_up("unknown command");
    }
}

static void listen_to(int n)
{
    int32_t pid;
    if (recv(clients[n].peer, &pid, sizeof pid, 0) == sizeof pid)
        clients[n].pid = pid;
    else
        drop(n);
}

int main(void)
{
    struct sigaction on_fault = {.sa_handler = fault, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &on_fault, NULL);
    if (is_told("dies")) {
        complain("Failed to start : no CUDA-capable device is detected");
        return 1;
    }
    while (is_told("slow"))
        usleep(20000);

    int control = connect_as(I_AM_SERVER);
    char name[SHARED_NAME] = {0};
    uint64_t percentage, devices;
    put(control, name, sizeof name);
    get(control, &percentage, sizeof percentage, NULL);
    get(control, &devices, sizeof devices, NULL);
    for (uint64_t n = 0; n < devices; n++)
        get(control, &limits[n % DEVICES], sizeof *limits, NULL);
    get_int(control); /* the priority of clients */

    for (;;) {
        struct pollfd waits[1 + CLIENTS] = {{control, POLLIN, 0}};
        for (int n = 0; n < count; n++)
            waits[1 + n] = (struct pollfd){clients[n].peer, POLLIN, 0};
        int watched = count;
        if (poll(waits, (nfds_t)(1 + watched), -1) < 0)
            continue;
        for (int n = watched - 1; n >= 0; n--)
            if (waits[1 + n].revents)
                listen_to(n);
        if (waits[0].revents)
            obey(control);
    }
}
