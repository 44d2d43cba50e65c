/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests to a volfs mount from C: one header, no library. It does no more than write to and read
 * from the control file; volfs.control(5) documents requests and replies.
 *
 *     char name[64];
 *     struct volfs_reply reply;
 *     volfs_quote(name, sizeof name, "scratch");
 *     if (volfs_request("/mnt", &reply, "{\"request\":\"map.suspend\",\"map\":%s}", name) != 0)
 *         fprintf(stderr, "%s (%s)\n", reply.message, reply.code);
 *     volfs_reply_free(&reply);
 *
 * Threads: every function may be called by any thread; a request opens the file anew.
 */
#ifndef VOLFS_CLIENT_H
#define VOLFS_CLIENT_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Strict ISO C shows neither. */
#ifndef PATH_MAX
#define VOLFS_PATH_MAX_ 4096
#else
#define VOLFS_PATH_MAX_ PATH_MAX
#endif

struct volfs_reply {
  char* text;        /* the whole reply, JSON; NULL if there is none */
  size_t length;     /* of text */
  int error;         /* 0, or an errno: of the request, or of speaking to the mount */
  char code[32];     /* its name, as "EBUSY" */
  char message[512]; /* for people; cut if it is longer */
  char place[128];   /* the key or device that it speaks of */
};

/* TEXT as a JSON string with its quotes. 0, or -1 if SIZE is too small. */
static inline int volfs_quote(char* out, size_t size, const char* text) {
  size_t used = 0;
  if (size < 3) return -1;
  out[used++] = '"';
  for (; *text; ++text) {
    const unsigned char c = (unsigned char)*text;
    if (used + 8 > size) return -1;
    if (c < 0x20) {
      used += (size_t)snprintf(out + used, size - used, "\\u%04x", c);
      continue;
    }
    if (c == '"' || c == '\\') out[used++] = '\\';
    out[used++] = (char)c;
  }
  out[used++] = '"';
  out[used] = 0;
  return 0;
}

/* The end of the JSON value at P, which is good JSON. */
static inline const char* volfs_skip_(const char* p) {
  int depth = 0;
  while (*p) {
    if (*p == '"') {
      for (++p; *p && *p != '"'; ++p)
        if (*p == '\\' && p[1]) ++p;
      if (!*p) return p;
    } else if (*p == '{' || *p == '[') {
      ++depth;
    } else if (*p == '}' || *p == ']') {
      if (depth == 0) return p;
      --depth;
    } else if (*p == ',' && depth == 0) {
      return p;
    }
    ++p;
  }
  return p;
}

/* Where the value of KEY begins in OBJECT ("{...}", as volfs writes it); NULL if it has none. */
static inline const char* volfs_find(const char* object, const char* key) {
  const size_t length = strlen(key);
  const char* p = object;
  if (!p || *p != '{') return NULL;
  ++p;
  while (*p == '"') {
    const char* const name = p + 1;
    const char* colon = name;
    while (*colon && *colon != '"') colon += *colon == '\\' && colon[1] ? 2 : 1;
    if (!*colon || colon[1] != ':') return NULL;
    if ((size_t)(colon - name) == length && memcmp(name, key, length) == 0) return colon + 2;
    p = volfs_skip_(colon + 2);
    if (*p != ',') return NULL;
    ++p;
  }
  return NULL;
}

/* A code point as UTF-8; the number of bytes. */
static inline size_t volfs_utf8_(char* out, unsigned long c) {
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  if (c < 0x800) {
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3f));
    return 2;
  }
  out[0] = (char)(0xe0 | c >> 12);
  out[1] = (char)(0x80 | (c >> 6 & 0x3f));
  out[2] = (char)(0x80 | (c & 0x3f));
  return 3;
}

/* Copies the string value at P, decoded and cut to SIZE; "" if it is none. */
static inline void volfs_string(char* out, size_t size, const char* p) {
  size_t used = 0;
  if (size == 0) return;
  if (p && *p == '"') {
    for (++p; *p && *p != '"' && used + 4 < size; ++p) {
      if (*p != '\\') {
        out[used++] = *p;
        continue;
      }
      ++p;
      if (*p == 'u') {
        char digits[5] = {0};
        strncpy(digits, p + 1, 4);
        used += volfs_utf8_(out + used, strtoul(digits, NULL, 16));
        p += strlen(digits);
      } else {
        const char* const which = strchr("b\bf\fn\nr\rt\t", *p);
        out[used++] = which && *p ? which[1] : *p;
      }
    }
  }
  out[used] = 0;
}

static inline int volfs_fail_(struct volfs_reply* reply, int error, const char* what) {
  reply->error = error;
  snprintf(reply->message, sizeof reply->message, "%s: %s", what, strerror(error));
  return error;
}

static inline int volfs_converse_(const char* mountpoint, const char* request,
                                  struct volfs_reply* reply) {
  char path[VOLFS_PATH_MAX_];
  size_t size = 4096;
  ssize_t got = 0;
  int control, error = 0;
  if ((size_t)snprintf(path, sizeof path, "%s/.volfs/control", mountpoint) >= sizeof path)
    return volfs_fail_(reply, ENAMETOOLONG, mountpoint);
#ifdef O_CLOEXEC
  control = open(path, O_RDWR | O_CLOEXEC);
#else
  control = open(path, O_RDWR);
  if (control >= 0) fcntl(control, F_SETFD, FD_CLOEXEC);
#endif
  if (control < 0) return volfs_fail_(reply, errno, path);
  got = write(control, request, strlen(request));
  if (got < 0)
    error = errno;
  else if ((size_t)got != strlen(request))
    error = EMSGSIZE;
  reply->text = error ? NULL : (char*)malloc(size);
  if (!error && !reply->text) error = ENOMEM;
  while (!error) {
    if (reply->length + 1 == size) {
      char* const larger = (char*)realloc(reply->text, size *= 2);
      if (!larger) {
        error = ENOMEM;
        break;
      }
      reply->text = larger;
    }
    got = read(control, reply->text + reply->length, size - 1 - reply->length);
    if (got <= 0) {
      error = got < 0 && errno != EINTR ? errno : 0;
      if (got == 0 || error) break;
      continue;
    }
    reply->length += (size_t)got;
  }
  close(control);
  if (error) return volfs_fail_(reply, error, path);
  reply->text[reply->length] = 0;
  return 0;
}

/* What came back says: 0, or the errno of the request. */
static inline int volfs_judge_(struct volfs_reply* reply) {
  const char* const ok = volfs_find(reply->text, "ok");
  const char* const error = volfs_find(reply->text, "error");
  const char* number;
  if (ok && strncmp(ok, "true", 4) == 0) return 0;
  if (!error) return volfs_fail_(reply, EPROTO, "not a reply");
  volfs_string(reply->code, sizeof reply->code, volfs_find(error, "code"));
  volfs_string(reply->message, sizeof reply->message, volfs_find(error, "message"));
  volfs_string(reply->place, sizeof reply->place, volfs_find(error, "place"));
  number = volfs_find(error, "errno");
  reply->error = number ? atoi(number) : EIO;
  if (reply->error == 0) reply->error = EIO;
  return reply->error;
}

/* Frees what a request left in REPLY; it may be used again. */
static inline void volfs_reply_free(struct volfs_reply* reply) {
  free(reply->text);
  reply->text = NULL;
  reply->length = 0;
}

/* Sends a request, JSON text by printf's rules, to the mount at MOUNTPOINT and waits for the reply.
 * 0, or an errno that stands in REPLY, too; free REPLY in either case. */
__attribute__((format(printf, 3, 4))) static inline int volfs_request(const char* mountpoint,
                                                                      struct volfs_reply* reply,
                                                                      const char* format, ...) {
  va_list arguments;
  char* text;
  int length, error;
  memset(reply, 0, sizeof *reply);
  va_start(arguments, format);
  length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  text = length < 0 ? NULL : (char*)malloc((size_t)length + 1);
  if (!text) return volfs_fail_(reply, ENOMEM, mountpoint);
  va_start(arguments, format);
  vsnprintf(text, (size_t)length + 1, format, arguments);
  va_end(arguments);
  error = volfs_converse_(mountpoint, text, reply);
  free(text);
  return error ? error : volfs_judge_(reply);
}

/* The "result" of a good reply, JSON; NULL if there is none. */
static inline const char* volfs_result(const struct volfs_reply* reply) {
  return volfs_find(reply->text, "result");
}

#endif
