/* An NVML for tests: NVIDIA's public ABI, answered out of a file that the test writes.
 *
 * FAKE_NVML names the file. It is read again at every call, so what the test writes is what the
 * driver says next. One word starts each line:
 *
 *   gpu UUID [name=A_B] [memory=MiB] [reserved=MiB] [used=MiB] [cc=8.0] [minor=N] [pci=BUSID]
 *            [mig=0|1] [mode=0..3] [recovery=N] [reset=0|1] [events=0|1]
 *                                   in the order of their indexes; without minor=, mig=, recovery=
 *                                   (the action, driver 570) or reset= (550) it does not support
 *                                   asking for that
 *   process UUID PID MiB [mps|compute]
 *   xid UUID NUMBER                 a line that appears is an event, delivered once to each set
 *   lost UUID                       the GPU has fallen off the bus; so has one without a gpu line
 *   driver absent                   nvidia.ko is not loaded
 *   fail FUNCTION CODE [UUID]       the function answers so (4: no permission)
 *   hang FUNCTION                   the function does not return while the line is there
 *
 * What programs do is told in files beside it: FAKE_NVML.mode-UUID is the compute mode that one
 * has set, and FAKE_NVML.registered has a line for each registration of a GPU for events.
 * Compiled with -DWITHOUT_<function> the library lacks that symbol, as an old driver's does.
 */

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15,
};

enum { MODES = 4, GPUS = 32, LINE = 512, MEMORY_V2 = 0x02000028, XID_CRITICAL = 8,
       RESET_STATUS = 226, DRAIN_AND_RESET_STATUS = 227, RECOVERY_ACTION = 230, NAP = 4,
       TOPOLOGY_SYSTEM = 50 };

static const unsigned long long MIB = 1 << 20;

typedef struct {
    char uuid[96], name[96], pci[32];
    unsigned long long memory, reserved, used;
    int major, minor_capability, minor, mig, mode, recovery, reset, events;
} Gpu;

typedef struct { char uuid[96]; } Handle;
typedef struct { Handle *registered[GPUS]; unsigned count, seen; } EventSet;

typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute; } Process;
typedef struct {
    Handle *device;
    unsigned long long type, data;
    unsigned instance, compute;
} EventData;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} Pci;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type, answer;
    union { double real; unsigned number; unsigned long long longest; } value;
} FieldValue;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Handle handles[GPUS];
static int initialized;

static const char *path(void)
{
    const char *file = getenv("FAKE_NVML");
    return file ? file : "/dev/null";
}

/* Calls `line` for each line that begins with `word`, until it answers something else than 0. */
typedef int Visit(char *rest, void *about);

static int each(const char *word, Visit *visit, void *about)
{
    FILE *file = fopen(path(), "re");
    char line[LINE];
    int answer = 0;
    size_t length = strlen(word);
    while (file && !answer && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, word, length) && line[length] == ' ')
            answer = visit(line + length + 1, about);
    }
    if (file)
        fclose(file);
    return answer;
}

static int same(char *rest, void *wanted)
{
    return !strcmp(rest, wanted);
}

struct failure { const char *function, *uuid; };

static int failing(char *rest, void *about)
{
    const struct failure *asked = about;
    char function[96], uuid[96];
    int code = 0, fields = sscanf(rest, "%95s %d %95s", function, &code, uuid);
    if (fields < 2 || strcmp(function, asked->function))
        return 0;
    return fields == 2 || (asked->uuid && !strcmp(uuid, asked->uuid)) ? code : 0;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = NAP * 1000000}, NULL);
}

/* Whether the file is another one than when it was last asked. */
static int changed(struct timespec *when)
{
    struct stat now;
    if (stat(path(), &now))
        return 0;
    int same_time = now.st_ctim.tv_sec == when->tv_sec && now.st_ctim.tv_nsec == when->tv_nsec;
    *when = now.st_ctim;
    return !same_time;
}

/* What every function does first. */
static int enter(const char *function, const char *uuid)
{
    while (each("hang", same, (void *)function))
        nap();
    int code = each("fail", failing, &(struct failure){function, uuid});
    if (code)
        return code;
    if (each("driver", same, "absent"))
        return DRIVER_NOT_LOADED;
    if (!initialized && strncmp(function, "nvmlInit", strlen("nvmlInit")))
        return UNINITIALIZED;
    return uuid && each("lost", same, (void *)uuid) ? GPU_IS_LOST : SUCCESS;
}

#define ENTER(uuid) do { int code_ = enter(__func__, uuid); if (code_) return code_; } while (0)

static void take(Gpu *gpu, const char *field)
{
    sscanf(field, "memory=%llu", &gpu->memory);
    sscanf(field, "reserved=%llu", &gpu->reserved);
    sscanf(field, "used=%llu", &gpu->used);
    sscanf(field, "cc=%d.%d", &gpu->major, &gpu->minor_capability);
    sscanf(field, "minor=%d", &gpu->minor);
    sscanf(field, "pci=%31s", gpu->pci);
    sscanf(field, "mig=%d", &gpu->mig);
    sscanf(field, "mode=%d", &gpu->mode);
    sscanf(field, "recovery=%d", &gpu->recovery);
    sscanf(field, "reset=%d", &gpu->reset);
    sscanf(field, "events=%d", &gpu->events);
    if (sscanf(field, "name=%95s", gpu->name) == 1)
        for (char *c = gpu->name; *c; c++)
            *c = *c == '_' ? ' ' : *c;
}

static Gpu parse(char *rest)
{
    Gpu gpu = {.name = "NVIDIA Test", .memory = 81920, .major = 8, .minor = -1, .mig = -1,
               .recovery = -1, .reset = -1, .events = 1, .pci = "00000000:01:00.0"};
    char *more, *field = strtok_r(rest, " ", &more);
    snprintf(gpu.uuid, sizeof gpu.uuid, "%s", field ? field : "");
    while ((field = strtok_r(NULL, " ", &more)))
        take(&gpu, field);
    return gpu;
}

struct search { const char *uuid; int index, seen; Gpu gpu; };

static int searching(char *rest, void *about)
{
    struct search *search = about;
    search->gpu = parse(rest);
    return search->uuid ? !strcmp(search->gpu.uuid, search->uuid) : search->seen++ == search->index;
}

static int find(const char *uuid, Gpu *gpu)
{
    struct search search = {.uuid = uuid};
    if (!each("gpu", searching, &search))
        return GPU_IS_LOST;
    *gpu = search.gpu;
    return SUCCESS;
}

static Handle *handle_of(const char *uuid)
{
    Handle *found = NULL;
    pthread_mutex_lock(&lock);
    for (int n = 0; n < GPUS && !found; n++)
        if (!handles[n].uuid[0] || !strcmp(handles[n].uuid, uuid)) {
            found = &handles[n];
            snprintf(found->uuid, sizeof found->uuid, "%s", uuid);
        }
    pthread_mutex_unlock(&lock);
    return found;
}

#define GPU_OF(handle) \
    Gpu gpu; \
    do { \
        ENTER((handle)->uuid); \
        int found_ = find((handle)->uuid, &gpu); \
        if (found_) \
            return found_; \
    } while (0)

#ifndef WITHOUT_nvmlInitWithFlags
int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    ENTER(NULL);
    initialized++;
    return SUCCESS;
}
#endif

/* From here to nvmlShutdown: what NVIDIA's programs ask and ours do not. */
int nvmlInit_v2(void)
{
    ENTER(NULL);
    initialized++;
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    ENTER(NULL);
    *version = 12090;
    return SUCCESS;
}

int nvmlDeviceGetTopologyCommonAncestor(Handle *one, Handle *other, int *level)
{
    ENTER(NULL);
    *level = one == other ? 0 : TOPOLOGY_SYSTEM;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkState(Handle *handle, unsigned link, int *active)
{
    (void)handle, (void)link, (void)active;
    return NOT_SUPPORTED;
}

int nvmlShutdown(void)
{
    ENTER(NULL);
    initialized--;
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    return code == SUCCESS ? "Success" : "Test Error";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    ENTER(NULL);
    snprintf(version, length, "%s", "575.51.03");
    return SUCCESS;
}

static int count_up(char *rest, void *count)
{
    (void)rest;
    ++*(unsigned *)count;
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    ENTER(NULL);
    *count = 0;
    each("gpu", count_up, count);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle **handle)
{
    struct search search = {.index = (int)index};
    int found = each("gpu", searching, &search);
    ENTER(found ? search.gpu.uuid : NULL);
    if (!found)
        return INVALID_ARGUMENT;
    *handle = handle_of(search.gpu.uuid);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Handle **handle)
{
    Gpu gpu;
    ENTER(uuid);
    if (find(uuid, &gpu))
        return NOT_FOUND;
    *handle = handle_of(uuid);
    return SUCCESS;
}

int nvmlDeviceGetUUID(Handle *handle, char *uuid, unsigned length)
{
    GPU_OF(handle);
    snprintf(uuid, length, "%s", gpu.uuid);
    return SUCCESS;
}

int nvmlDeviceGetName(Handle *handle, char *name, unsigned length)
{
    GPU_OF(handle);
    snprintf(name, length, "%s", gpu.name);
    return SUCCESS;
}

int nvmlDeviceGetMinorNumber(Handle *handle, unsigned *minor)
{
    GPU_OF(handle);
    if (gpu.minor < 0)
        return NOT_SUPPORTED;
    *minor = (unsigned)gpu.minor;
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(Handle *handle, Pci *pci)
{
    GPU_OF(handle);
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "%s", gpu.pci);
    return SUCCESS;
}

struct listing;
static unsigned long long told(struct listing *listing);

int nvmlDeviceGetMemoryInfo(Handle *handle, Memory *memory)
{
    GPU_OF(handle);
    unsigned long long used = gpu.used + gpu.reserved;
    *memory = (Memory){gpu.memory * MIB, (gpu.memory - used) * MIB, used * MIB};
    return SUCCESS;
}

#ifndef WITHOUT_nvmlDeviceGetMemoryInfo_v2
int nvmlDeviceGetMemoryInfo_v2(Handle *handle, MemoryV2 *memory)
{
    GPU_OF(handle);
    if (memory->version != MEMORY_V2)
        return INVALID_ARGUMENT;
    memory->total = gpu.memory * MIB;
    memory->reserved = gpu.reserved * MIB;
    memory->used = (gpu.used + told(NULL)) * MIB;
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}
#endif

int nvmlDeviceGetCudaComputeCapability(Handle *handle, int *major, int *minor)
{
    GPU_OF(handle);
    *major = gpu.major;
    *minor = gpu.minor_capability;
    return SUCCESS;
}

#ifndef WITHOUT_nvmlDeviceGetMigMode
int nvmlDeviceGetMigMode(Handle *handle, unsigned *current, unsigned *pending)
{
    GPU_OF(handle);
    if (gpu.mig < 0)
        return NOT_SUPPORTED;
    *current = *pending = (unsigned)gpu.mig;
    return SUCCESS;
}
#endif

static void mode_file(const char *uuid, char *file, size_t length)
{
    snprintf(file, length, "%s.mode-%s", path(), uuid);
}

int nvmlDeviceGetComputeMode(Handle *handle, int *mode)
{
    GPU_OF(handle);
    char file[4096];
    mode_file(gpu.uuid, file, sizeof file);
    FILE *kept = fopen(file, "re");
    *mode = gpu.mode;
    if (kept && fscanf(kept, "%d", mode) != 1)
        *mode = gpu.mode;
    if (kept)
        fclose(kept);
    return SUCCESS;
}

int nvmlDeviceSetComputeMode(Handle *handle, int mode)
{
    GPU_OF(handle);
    char file[4096], fresh[4200];
    if (mode < 0 || mode >= MODES)
        return INVALID_ARGUMENT;
    mode_file(gpu.uuid, file, sizeof file);
    snprintf(fresh, sizeof fresh, "%s.%d", file, getpid());
    FILE *kept = fopen(fresh, "we");
    if (!kept)
        return INVALID_ARGUMENT;
    fprintf(kept, "%d\n", mode);
    fclose(kept);
    return rename(fresh, file) ? INVALID_ARGUMENT : SUCCESS;
}

int nvmlDeviceGetFieldValues(Handle *handle, int count, FieldValue *values)
{
    GPU_OF(handle);
    for (int n = 0; n < count; n++) {
        int value = -1;
        if (values[n].field == RECOVERY_ACTION)
            value = gpu.recovery;
        if (values[n].field == RESET_STATUS || values[n].field == DRAIN_AND_RESET_STATUS)
            value = gpu.reset;
        values[n].type = 1;
        values[n].answer = value < 0 ? NOT_SUPPORTED : SUCCESS;
        values[n].value.number = (unsigned)value;
    }
    return SUCCESS;
}

struct listing { const char *uuid, *kind; Process *list; unsigned room, count; };

static int listed(char *rest, void *about)
{
    struct listing *listing = about;
    char uuid[96], kind[16] = "mps";
    unsigned pid;
    unsigned long long memory;
    if (sscanf(rest, "%95s %u %llu %15s", uuid, &pid, &memory, kind) < 3)
        return 0;
    if (strcmp(uuid, listing->uuid) || strcmp(kind, listing->kind))
        return 0;
    if (listing->count < listing->room)
        listing->list[listing->count] = (Process){pid, memory * MIB, ~0u, ~0u};
    listing->count++;
    return 0;
}

/* FAKE_CUDA is a folder in which processes that live tell the MiB that they have. */
static unsigned long long told(struct listing *listing)
{
    unsigned long long sum = 0;
    const char *folder = getenv("FAKE_CUDA");
    DIR *open = folder ? opendir(folder) : NULL;
    for (struct dirent *entry; open && (entry = readdir(open));) {
        char path[4096];
        unsigned long long mib = 0;
        unsigned pid = (unsigned)atoi(entry->d_name);
        snprintf(path, sizeof path, "/proc/%u", pid);
        if (!pid || access(path, F_OK))
            continue;
        snprintf(path, sizeof path, "%s/%u", folder, pid);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;
        if (fscanf(file, "%llu", &mib) == 1) {
            sum += mib;
            if (listing && listing->count < listing->room)
                listing->list[listing->count] = (Process){pid, mib * MIB, ~0u, ~0u};
            if (listing)
                listing->count++;
        }
        fclose(file);
    }
    if (open)
        closedir(open);
    return sum;
}

static int processes(const char *uuid, const char *kind, unsigned *count, Process *list)
{
    struct listing listing = {uuid, kind, list, list ? *count : 0, 0};
    each("process", listed, &listing);
    if (strcmp(kind, "mps") == 0)
        told(&listing);
    *count = listing.count;
    return listing.count > listing.room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Handle *handle, unsigned *count, Process *list)
{
    GPU_OF(handle);
    return processes(gpu.uuid, "compute", count, list);
}

#ifndef WITHOUT_nvmlDeviceGetMPSComputeRunningProcesses_v3
int nvmlDeviceGetMPSComputeRunningProcesses_v3(Handle *handle, unsigned *count, Process *list)
{
    GPU_OF(handle);
    return processes(gpu.uuid, "mps", count, list);
}
#endif

int nvmlDeviceGetSupportedEventTypes(Handle *handle, unsigned long long *types)
{
    GPU_OF(handle);
    *types = gpu.events ? XID_CRITICAL : 0;
    return SUCCESS;
}

#ifndef WITHOUT_nvmlEventSetCreate
int nvmlEventSetCreate(EventSet **set)
{
    ENTER(NULL);
    *set = calloc(1, sizeof **set);
    each("xid", count_up, &(*set)->seen);
    return SUCCESS;
}
#endif

int nvmlDeviceRegisterEvents(Handle *handle, unsigned long long types, EventSet *set)
{
    GPU_OF(handle);
    if (!gpu.events)
        return NOT_SUPPORTED;
    if (!(types & XID_CRITICAL) || set->count == GPUS)
        return INVALID_ARGUMENT;
    set->registered[set->count++] = handle;
    char file[4096];
    snprintf(file, sizeof file, "%s.registered", path());
    FILE *told = fopen(file, "ae");
    if (told) {
        fprintf(told, "%s\n", gpu.uuid);
        fclose(told);
    }
    return SUCCESS;
}

struct news { EventSet *set; unsigned at; EventData *data; };

static int newer(char *rest, void *about)
{
    struct news *news = about;
    char uuid[96];
    if (news->at++ < news->set->seen)
        return 0;
    news->set->seen++;
    if (sscanf(rest, "%95s %llu", uuid, &news->data->data) != 2)
        return 0;
    for (unsigned n = 0; n < news->set->count; n++)
        if (!strcmp(news->set->registered[n]->uuid, uuid)) {
            news->data->device = news->set->registered[n];
            return 1;
        }
    return 0;
}

int nvmlEventSetWait_v2(EventSet *set, EventData *data, unsigned milliseconds)
{
    struct timespec read = {0};
    memset(data, 0, sizeof *data);
    for (unsigned waited = 0;; waited += NAP) {
        int news = changed(&read);
        if (news)
            ENTER(NULL);
        if (news && each("xid", newer, &(struct news){set, 0, data})) {
            data->type = XID_CRITICAL;
            data->instance = data->compute = ~0u;
            return SUCCESS;
        }
        if (waited >= milliseconds)
            return TIMEOUT;
        nap();
    }
}

int nvmlEventSetFree(EventSet *set)
{
    ENTER(NULL);
    free(set);
    return SUCCESS;
}
