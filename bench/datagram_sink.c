/* The barest receiver there can be: take datagrams from a unix socket and count them, until SIGTERM.
   What it loses no receiver can keep. Prints how many there were.
   datagram_sink SOCKET */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static volatile sig_atomic_t ended;

static void end(int number) {
    (void)number;
    ended = 1;
}

int main(int argc, char **argv) {
    static char buffer[1024 * 1024];
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct sigaction action = {.sa_handler = end};
    long count = 0;
    if (argc != 2 || strlen(argv[1]) >= sizeof at.sun_path) return 2;
    strcpy(at.sun_path, argv[1]);
    sigaction(SIGTERM, &action, NULL);
    int in = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (in < 0 || bind(in, (struct sockaddr *)&at, sizeof at) < 0) return 2;
    while (!ended) {
        if (recv(in, buffer, sizeof buffer, 0) >= 0) count++;
        else if (errno != EINTR) return 3;
    }
    while (recv(in, buffer, sizeof buffer, MSG_DONTWAIT) >= 0) count++;
    printf("%ld\n", count);
    return 0;
}
