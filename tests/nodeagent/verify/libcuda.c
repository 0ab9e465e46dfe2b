/* Stands in for libcuda.so.1 as a client of MPS: honours the variables, and does nothing on a GPU.
 *
 * FAKE_CUDA is a folder in which each process tells the MiB that it has, in a file named after its
 * PID; the NVML for tests reads them. Compiled with -DIGNORES_LIMIT it heeds no limit, as a wrong GPU would.
 */

#include "../mps/protocol.h"

#include <dirent.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, ILLEGAL_ADDRESS = 700, LOST = 805 };
enum { TOTAL_MIB = 80000, CONTEXT_MIB = 4 };

typedef unsigned long long Pointer;

static int server = -1, faulty;
static long limit_mib = TOTAL_MIB, used_mib;

static long others(void)
{
    long sum = 0;
    DIR *folder = opendir(getenv("FAKE_CUDA"));
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char path[4096];
        int pid = atoi(entry->d_name);
        if (pid <= 0 || pid == getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%d", pid);
        if (access(path, F_OK))
            continue;
        snprintf(path, sizeof path, "%s/%d", getenv("FAKE_CUDA"), pid);
        FILE *file = fopen(path, "r");
        long mib = 0;
        if (file && fscanf(file, "%ld", &mib) == 1)
            sum += mib;
        if (file)
            fclose(file);
    }
    if (folder)
        closedir(folder);
    return sum;
}

static int take(long mib, int counts)
{
#ifndef IGNORES_LIMIT
    if (counts && used_mib + mib > limit_mib)
        return OUT_OF_MEMORY;
#else
    if (counts && used_mib + mib > 4 * limit_mib)
        return OUT_OF_MEMORY;
#endif
    if (used_mib + mib + others() > TOTAL_MIB)
        return OUT_OF_MEMORY;
    used_mib += mib;
    char path[4096];
    snprintf(path, sizeof path, "%s/%d", getenv("FAKE_CUDA"), getpid());
    FILE *file = fopen(path, "w");
    if (file) {
        fprintf(file, "%ld\n", used_mib);
        fclose(file);
    }
    return SUCCESS;
}

static int state(void)
{
    char nothing;
    if (server < 0)
        return NOT_INITIALIZED;
    if (faulty)
        return ILLEGAL_ADDRESS;
    return recv(server, &nothing, 1, MSG_DONTWAIT | MSG_PEEK) == 0 ? LOST : SUCCESS;
}

int cuInit(unsigned flags)
{
    const char *limit = getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT");
    if (limit)
        sscanf(limit, "0=%ldM", &limit_mib);
    int control = connect_as(I_AM_CLIENT);
    char word[16];
    get(control, word, sizeof word, &server);
    close(control);
    put_int(server, getpid());
    return (int)flags;
}

int cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return state();
}

int cuCtxCreate_v2(void **context, unsigned flags, int device)
{
    *context = NULL;
    (void)flags, (void)device;
    return state() ? state() : take(CONTEXT_MIB, 1);
}

int cuMemGetInfo_v2(size_t *free, size_t *total)
{
    *free = (size_t)(limit_mib - used_mib) << 20;
    *total = (size_t)TOTAL_MIB << 20;
    return state();
}

int cuMemAlloc_v2(Pointer *block, size_t size)
{
    *block = 1;
    return state() ? state() : take((long)(size >> 20), 1);
}

int cuMemAllocManaged(Pointer *block, size_t size, unsigned flags)
{
    *block = 1;
    (void)flags;
    return state() ? state() : take((long)(size >> 20), 0);
}

int cuMemsetD8_v2(Pointer block, unsigned char value, size_t size)
{
    (void)block, (void)value, (void)size;
    return state();
}

int cuCtxSynchronize(void)
{
    return state();
}

int cuModuleLoadData(void **module, const void *image)
{
    *module = (void *)image;
    return state();
}

int cuModuleGetFunction(void **function, void *module, const char *name)
{
    (void)module;
    *function = (void *)name;
    return state();
}

/* The server is the child of the process that made our socket to it. */
static void fault_the_server(void)
{
    struct ucred maker;
    socklen_t length = sizeof maker;
    getsockopt(server, SOL_SOCKET, SO_PEERCRED, &maker, &length);
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        char path[300], name[64];
        int parent = 0;
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        FILE *file = atoi(entry->d_name) > 0 ? fopen(path, "r") : NULL;
        if (!file)
            continue;
        if (fscanf(file, "%*d (%63[^)]) %*c %d", name, &parent) == 2 && parent == maker.pid)
            kill(atoi(entry->d_name), SIGUSR1);
        fclose(file);
    }
    if (proc)
        closedir(proc);
}

int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *stream, void **arguments, void **extra)
{
    (void)x, (void)y, (void)z, (void)bx, (void)by, (void)bz, (void)shared;
    (void)stream, (void)arguments, (void)extra;
    if (state() == SUCCESS && strcmp(function, "fault") == 0) {
        faulty = 1;
        fault_the_server();
    }
    return SUCCESS;
}
