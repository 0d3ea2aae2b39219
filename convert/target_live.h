/* The temporaries that this process is writing, so that the handler of a fatal signal can remove them. */
#pragma once

#include <stdbool.h>

/* Enters the path of a temporary, and takes it out again. What has no place in the small table is left to the next
 * writer of the target, as after kill -9. */
void cvt_target_live(const char *temp, bool live);

/* A file, or a folder and everything in it; links are not followed. Safe in a signal handler: no memory, no locks. */
void cvt_remove_tree(const char *path);
