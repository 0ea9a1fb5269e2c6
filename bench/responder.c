/* The least that a socketmap server can do: C, epoll, one reply that never changes, no look at
 * the request but where it ends. What it reaches beside a load generator on the same cores is the
 * ceiling for any daemon there. Usage: responder PORT PROCESSES REPLY (a whole netstring). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 65536, DEPTH = 1024, CONNECTIONS = 4096 };

static char *replies;
static size_t size;
/* bytes of a request that have not come yet, by descriptor */
static int missing[CONNECTIONS];

/* How many requests end within these bytes. Requests of the load generator that are cut within
 * their length do not occur: what is sent at once is less than a segment of loopback. */
static int ended(int fd, const char *data, int length) {
    int at = missing[fd], count = at && at <= length;
    while (at < length) {
        int request = 0;
        while (at < length && data[at] != ':') request = request * 10 + data[at++] - '0';
        at += request + 2;
        count += at <= length;
    }
    missing[fd] = at - length;
    return count;
}

static void serve(int listener) {
    static char data[BUFFER];
    struct epoll_event events[256], event = {.events = EPOLLIN, .data.fd = listener};
    int poll = epoll_create1(0), one = 1;
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int found = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < found; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                event.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (event.data.fd < 0) continue;
                if (event.data.fd >= CONNECTIONS) { close(event.data.fd); continue; }
                missing[event.data.fd] = 0;
                setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
                continue;
            }
            int got = recv(fd, data, sizeof data, 0);
            if (got <= 0) { close(fd); continue; }
            int count = ended(fd, data, got);
            if (count > DEPTH) count = DEPTH;
            if (count && send(fd, replies, size * count, MSG_NOSIGNAL) < 0) close(fd);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 4) { fprintf(stderr, "usage: responder port processes reply\n"); return 2; }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) {
        perror("responder");
        return 1;
    }
    size = strlen(argv[3]);
    replies = malloc(size * DEPTH);
    for (int i = 0; i < DEPTH; i++) memcpy(replies + size * i, argv[3], size);
    for (int i = 1; i < atoi(argv[2]); i++)
        if (!fork()) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    serve(listener);
}
