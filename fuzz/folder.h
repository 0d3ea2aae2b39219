/* A folder of this process, in memory where there is /dev/shm, for targets whose parser wants one. It is removed with
 * its files at exit and before a finding ends the program; a crash leaves it. */
#pragma once

const char *fuzz_folder(void);
void fuzz_folder_remove(void);

/* `name` in the folder becomes another name of the file at `path` (fuzz_file). */
void fuzz_folder_link(const char *name, const char *path);
