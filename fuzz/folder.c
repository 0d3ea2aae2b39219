#include "fuzz/folder.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

void fuzz_folder_remove(void)
{
    char path[512];
    DIR *d = folder[0] ? opendir(folder) : NULL;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        unlink(path);
    }
    if (d) closedir(d);
    if (folder[0]) rmdir(folder);
    folder[0] = 0;
}

const char *fuzz_folder(void)
{
    if (folder[0]) return folder;
    snprintf(folder, sizeof folder, "%s/fh1-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder) || atexit(fuzz_folder_remove)) {
        perror(folder);
        abort();
    }
    return folder;
}

void fuzz_folder_link(const char *name, const char *path)
{
    char link[512];
    snprintf(link, sizeof link, "%s/%s", fuzz_folder(), name);
    unlink(link);
    if (symlink(path, link)) {
        perror(link);
        abort();
    }
}
