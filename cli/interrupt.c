#include "cli/interrupt.h"

#include "cli/progress.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>

static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_CAUGHT = sizeof caught / sizeof caught[0] };

static struct sigaction before[N_CAUGHT];
static atomic_int came; /* the signal; 0: none */
static atomic_bool told;

static void raise_flag(int signal_number)
{
    atomic_store(&came, signal_number);
}

void cli_interrupt_begin(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = raise_flag;
    a.sa_flags = SA_RESTART | (int)SA_RESETHAND; /* the second signal of a kind does what it always does */
    sigemptyset(&a.sa_mask);
    for (int i = 0; i < N_CAUGHT; i++) {
        sigaction(caught[i], NULL, &before[i]);
        if (before[i].sa_handler != SIG_IGN) sigaction(caught[i], &a, NULL); /* nohup, background jobs */
    }
}

void cli_interrupt_end(void)
{
    for (int i = 0; i < N_CAUGHT; i++) sigaction(caught[i], &before[i], NULL);
    if (!atomic_load(&told)) atomic_store(&came, 0); /* the work was done before anyone asked */
}

fh1_status cli_interrupted(void)
{
    int signal_number = atomic_load(&came);
    if (!signal_number) return NULL;
    atomic_store(&told, true);
    const char *name = signal_number == SIGINT ? "SIGINT" : signal_number == SIGTERM ? "SIGTERM" : "SIGHUP";
    return fh1_hint(fh1_fail(FH1_E_INTERNAL, "interrupted by %s", name), "nothing was left behind");
}

void cli_die_if_interrupted(void)
{
    int signal_number = atomic_load(&came);
    if (!signal_number || !atomic_load(&told)) return;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}
