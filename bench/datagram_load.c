/* Send the datagrams of a file (one a line) in turn to a unix socket, RATE a second for SECONDS,
   without waiting, as libtlsrpt does; print how many were sent, how many found the queue full, and
   the seconds it took. With a RATE of 0: as fast as it can, waiting wherever the queue is full.
   datagram_load SOCKET FILE RATE SECONDS */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

enum { MOST = 20000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    static char *text[MOST];
    static size_t size[MOST];
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char *line = NULL;
    size_t room = 0, count = 0;
    ssize_t got;
    if (argc != 5 || strlen(argv[1]) >= sizeof to.sun_path) return 2;
    FILE *file = fopen(argv[2], "r");
    if (file == NULL) return 2;
    while (count < MOST && (got = getline(&line, &room, file)) > 1) {
        size[count] = (size_t)got - 1;
        text[count] = strndup(line, size[count]);
        count++;
    }
    strcpy(to.sun_path, argv[1]);
    int out = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (out < 0 || count == 0) return 2;
    double rate = atof(argv[3]), start = now();
    long total = (long)(rate * atof(argv[4])), lost = 0;
    if (rate == 0) {
        double end = start + atof(argv[4]);
        for (; total % 256 != 0 || now() < end; total++)
            if (sendto(out, text[total % count], size[total % count], 0, (struct sockaddr *)&to,
                       sizeof to) < 0)
                return 3;
    } else for (long n = 0; n < total; n++) {
        double ahead = (double)n / rate - (now() - start);
        if (ahead > 0) {
            struct timespec wait = {0, (long)(ahead * 1e9)};
            nanosleep(&wait, NULL);
        }
        if (sendto(out, text[n % count], size[n % count], MSG_DONTWAIT,
                   (struct sockaddr *)&to, sizeof to) < 0) {
            if (errno != EAGAIN) return 3;
            lost++;
        }
    }
    printf("%ld %ld %.3f\n", total, lost, now() - start);
    return 0;
}
