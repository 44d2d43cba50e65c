/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Prints the table of a map, and what is wrong if there is none:
 *     cc -o example example.c && ./example /mnt scratch
 */
#include "volfs_client.h"

int main(int argc, char** argv) {
  struct volfs_reply reply;
  char name[512], table[4096];
  int error;
  if (argc != 3 || volfs_quote(name, sizeof name, argv[2]) != 0) {
    fprintf(stderr, "usage: %s MOUNTPOINT MAP\n", argv[0]);
    return 2;
  }
  error = volfs_request(argv[1], &reply, "{\"request\":\"map.table\",\"map\":%s}", name);
  if (error) {
    fprintf(stderr, "%s: %s [%s] at '%s'\n", argv[0], reply.message, reply.code, reply.place);
  } else {
    volfs_string(table, sizeof table, volfs_result(&reply));
    printf("%s", table);
  }
  volfs_reply_free(&reply);
  return error ? 1 : 0;
}
