/* socketmap load generator: C connections, each with D requests in flight, for S seconds;
 * S = 0: cold mode, every key is asked for once. Prints one line of JSON; latencies in us.
 * It shares the cores with what it measures, so it does little besides the system calls that the
 * requests take: one look at the clock for each read, when the next requests go out too. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_DEPTH = 512, BUFFER = 65536, MAX_LATENCIES = 8000000 };
struct conn { int fd, len; char buf[BUFFER]; double sent_at[MAX_DEPTH]; unsigned head, tail, key; };

struct request { char *text; size_t size; };

static struct request *requests;
static int keys, cold, asked;
static float *latency;
static long latencies, done, ok, notfound, other;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Requests that are due together go out together, as those of a client that pipelines do. */
static void ask(struct conn *c, int count, double at) {
    static char out[BUFFER * 16];
    const struct request *last = NULL;
    size_t size = 0;
    while (count-- > 0 && !(cold && asked == keys)) {
        if (last) {
            memcpy(out + size, last->text, last->size);
            size += last->size;
        }
        last = &requests[cold ? asked : (int)c->key];
        asked += cold;
        if (++c->key == (unsigned)keys) c->key = 0;
        c->sent_at[c->tail++ % MAX_DEPTH] = at;
    }
    if (!last) return;
    const char *from = last->text; /* one by itself needs no copy */
    if (size) {
        memcpy(out + size, last->text, last->size);
        from = out;
    }
    if (send(c->fd, from, size + last->size, 0) < 0) { perror("send"); exit(1); }
}

static void read_keys(const char *path, const char *map) {
    FILE *f = fopen(path, "r");
    char line[512], request[1100];
    int size = 1024;
    if (!f) { perror(path); exit(1); }
    requests = malloc(size * sizeof *requests);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\r\n")] = 0;
        if (keys == size) requests = realloc(requests, (size *= 2) * sizeof *requests);
        snprintf(request, sizeof request, "%zu:%s %s,", strlen(map) + 1 + strlen(line), map, line);
        requests[keys++] = (struct request){strdup(request), strlen(request)};
    }
    fclose(f);
    if (!keys) { fprintf(stderr, "no keys\n"); exit(1); }
}

/* A path is a unix socket's; its port is not looked at. */
static int dial(const char *host, int port) {
    if (*host == '/') {
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        strncpy(at.sun_path, host, sizeof at.sun_path - 1);
        if (connect(fd, (struct sockaddr *)&at, sizeof at)) { perror("connect"); exit(1); }
        return fd;
    }
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) { perror("connect"); exit(1); }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static double take(struct conn *c) {
    int got = recv(c->fd, c->buf + c->len, BUFFER - c->len, 0), at = 0, answered = 0;
    if (got <= 0) { fprintf(stderr, "closed by the server after %ld\n", done); exit(1); }
    double at_last = now();
    c->len += got;
    for (;;) {
        int p = at, size = 0;
        while (p < c->len && c->buf[p] >= '0' && c->buf[p] <= '9') size = size * 10 + c->buf[p++] - '0';
        if (p >= c->len || c->buf[p] != ':' || p + 1 + size + 1 > c->len) break;
        const char *body = c->buf + p + 1;
        if (size >= 3 && !memcmp(body, "OK ", 3)) ok++;
        else if (size >= 8 && !memcmp(body, "NOTFOUND", 8)) notfound++;
        else other++;
        float took = (at_last - c->sent_at[c->head++ % MAX_DEPTH]) * 1e6;
        if (latencies < MAX_LATENCIES) latency[latencies++] = took;
        done++;
        at = p + 1 + size + 1;
        answered++;
    }
    if (c->len -= at) memmove(c->buf, c->buf + at, c->len);
    ask(c, answered, at_last);
    return at_last;
}

int main(int argc, char **argv) {
    if (argc != 8) { fprintf(stderr, "usage: load host port map keys conns depth seconds\n"); return 2; }
    read_keys(argv[4], argv[3]);
    int count = atoi(argv[5]), depth = atoi(argv[6]), poll = epoll_create1(0);
    double seconds = atof(argv[7]);
    if (count < 1 || depth < 1 || depth > MAX_DEPTH) return 2;
    cold = seconds == 0;
    latency = malloc(MAX_LATENCIES * sizeof *latency);
    struct conn *conns = calloc(count, sizeof *conns);
    for (int i = 0; i < count; i++) {
        conns[i].fd = dial(argv[1], atoi(argv[2]));
        conns[i].key = i * 7919u % keys;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &conns[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, conns[i].fd, &e);
    }
    double start = now(), end = start + (cold ? 60 : seconds), last = start;
    for (int i = 0; i < count; i++)
        ask(&conns[i], depth, now());
    struct epoll_event events[256];
    while (last < end && !(cold && done == keys)) {
        int n = epoll_wait(poll, events, 256, 200);
        for (int i = 0; i < n; i++) last = take(events[i].data.ptr);
        if (n <= 0) last = now();
    }
    double took = now() - start;
    if (!latencies) { fprintf(stderr, "no answer\n"); return 1; }
    qsort(latency, latencies, sizeof *latency, by_value);
    printf("{\"rate\": %.1f, \"done\": %ld, \"ok\": %ld, \"notfound\": %ld, \"other\": %ld, "
           "\"p50\": %.0f, \"p99\": %.0f}\n", done / took, done, ok, notfound, other,
           latency[latencies / 2], latency[(long)(latencies * 0.99)]);
}
