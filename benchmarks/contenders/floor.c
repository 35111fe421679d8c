/* The floor in C: threads, kept connections, one request at a time on each, bodies straight to their place.
 *
 * For: how much of the Python floor is the machine and how much is Python.
 * Must not know: S3, signing, TLS, or anything but HTTP/1.1 with a Content-Length that the caller knows.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_ROOM 4096
#define MOST_THREADS 1024

struct task {
    const char *request;
    size_t request_length;
    char *target; /* NULL: the thread's own recycled buffer */
    size_t length;
};

struct run {
    const struct task *tasks;
    size_t count;
    atomic_size_t next;
    atomic_int failures;
    int port;
};

struct seat {
    struct run *run;
    int number;
    char *scratch;
};

static int connections[MOST_THREADS]; /* 0: none yet */

static int connection(int number, int port) {
    if (connections[number] > 0) return connections[number];
    int sock = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (sock < 0 || connect(sock, (struct sockaddr *)&where, sizeof where)) return -1;
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return connections[number] = sock;
}

static int receive(int sock, const struct task *task, char *target) {
    char head[HEAD_ROOM + 1];
    if (send(sock, task->request, task->request_length, MSG_NOSIGNAL) != (ssize_t)task->request_length)
        return -1;
    ssize_t got = recv(sock, head, HEAD_ROOM, 0);
    if (got <= 0) return -1;
    head[got] = 0;
    char *end = strstr(head, "\r\n\r\n");
    if (!end || strncmp(head, "HTTP/1.1 20", 11)) return -1;
    size_t early = (size_t)(head + got - (end + 4));
    memcpy(target, end + 4, early);
    while (early < task->length) {
        got = recv(sock, target + early, task->length - early, MSG_WAITALL);
        if (got <= 0) return -1;
        early += (size_t)got;
    }
    return 0;
}

static void *work(void *argument) {
    struct seat *seat = argument;
    struct run *run = seat->run;
    int sock = connection(seat->number, run->port);
    for (;;) {
        size_t index = atomic_fetch_add(&run->next, 1);
        if (index >= run->count) return NULL;
        const struct task *task = &run->tasks[index];
        if (sock < 0 || receive(sock, task, task->target ? task->target : seat->scratch))
            atomic_fetch_add(&run->failures, 1);
    }
}

/* Do every task with `threads` threads; `scratch` has room for one body per thread. Returns the failures. */
int floor_run(int port, const struct task *tasks, size_t count, int threads, char *scratch, size_t room) {
    struct run run = {.tasks = tasks, .count = count, .port = port};
    struct seat seats[MOST_THREADS];
    pthread_t ids[MOST_THREADS];
    if (threads > MOST_THREADS) return -1;
    for (int i = 0; i < threads; i++) {
        seats[i] = (struct seat){.run = &run, .number = i, .scratch = scratch + (size_t)i * room};
        if (pthread_create(&ids[i], NULL, work, &seats[i])) return -1;
    }
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    return run.failures;
}
