"""The guest's flags and commands for files: Linux's numbers, which Emscripten shares."""

O_ACCMODE = 0o3
O_RDONLY = 0o0
O_WRONLY = 0o1
O_RDWR = 0o2
O_CREAT = 0o100
O_EXCL = 0o200
O_TRUNC = 0o1000
O_APPEND = 0o2000
O_NONBLOCK = 0o4000
O_DIRECTORY = 0o200000
O_NOFOLLOW = 0o400000
O_CLOEXEC = 0o2000000

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_REMOVEDIR = 0x200  # for unlinkat; for faccessat the same bit is AT_EACCESS
AT_EMPTY_PATH = 0x1000

F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL = 0, 1, 2, 3, 4
F_LOCKS = frozenset({5, 6, 7, 12, 13, 14})  # F_GETLK, F_SETLK, F_SETLKW, and musl's numbers for 64-bit offsets
F_DUPFD_CLOEXEC = 1030
FD_CLOEXEC = 1

UTIME_NOW = -1  # ours, instead of a time in nanoseconds; so the last nanosecond before 1970 cannot be set
